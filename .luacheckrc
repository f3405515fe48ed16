-- What the server offers a script; a script may make no globals. `.ci/lint_lua.py` composes the scripts
-- and lints them as a server gets them; a part alone lacks what it includes.
std = "lua51"
read_globals = { "KEYS", "ARGV", "redis", "cjson", "cmsgpack", "struct", "bit" }
max_line_length = 100
