-- What stands for a job's data that a rule has taken: `{}` to all libraries, and written by none.
local NO_DATA = '{ }'
