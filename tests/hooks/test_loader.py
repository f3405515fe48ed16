"""Loading plugins: hostile ones, their order, which are wanted, which are required."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.hooks.conftest import Load
from tests.support.distributions import Site

from toril.errors import ConfigurationError
from toril.hooks.markers import hookimpl
from toril.hooks.plugin_set import PluginInfo, PluginSet
from toril.job_events import JobSaved

GOOD = """
    from toril.plugins import hookimpl

    @hookimpl
    def toril_jobs_saved(events):
        pass
"""


def by_name(plugins: PluginSet) -> dict[str, PluginInfo]:
    return {info.name: info for info in plugins.infos}


HOSTILE = {
    "missing-import": ("import nothing_there", "broken", "ModuleNotFoundError"),
    "raises-at-import": ("1 / 0", "broken", "ZeroDivisionError"),
    "exits-at-import": ("raise SystemExit(3)", "broken", "SystemExit: 3"),
    "syntax-error": ("def (", "broken", "SyntaxError"),
    "undecorated": (
        "def toril_jobs_saved(events): pass",
        "broken",
        "the function 'toril_jobs_saved' lacks @hookimpl",
    ),
    "typo": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        def toril_plan_fnish(job): return None
        """,
        "broken",
        "there is no hook 'toril_plan_fnish'; did you mean 'toril_plan_finish'?",
    ),
    "wrong-argument": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        def toril_jobs_saved(event): pass
        """,
        "broken",
        "has no argument 'event'; did you mean 'events'?; it has: events",
    ),
    "default": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        def toril_jobs_saved(events=()): pass
        """,
        "broken",
        "argument 'events' may have no default",
    ),
    "star": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        def toril_jobs_saved(*args): pass
        """,
        "broken",
        "must name its arguments; it has '*args'",
    ),
    "async-plan": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        async def toril_plan_save(draft): pass
        """,
        "broken",
        "toril_plan_save must be a plain function",
    ),
    "async-register": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        async def toril_register(registry): pass
        """,
        "broken",
        "toril_register must be a plain function",
    ),
    "wrapper": (
        """
        from toril.plugins import hookimpl
        @hookimpl(wrapper=True)
        def toril_jobs_saved(events): yield
        """,
        "broken",
        "toril_jobs_saved takes no wrapper",
    ),
    "generator": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        def toril_jobs_saved(events): yield
        """,
        "broken",
        "must return its answer, not yield it",
    ),
    "constructor": (
        """
        class P:
            def __init__(self): raise RuntimeError("no")
        """,
        "broken",
        "RuntimeError: no",
    ),
    "registers-badly": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        def toril_register(registry): registry.lua("finnished", "")
        """,
        "broken",
        "there is no point 'finnished'; did you mean 'finished'?",
    ),
    "other-host": (
        """
        from toril.plugins import hookimpl
        @hookimpl
        def toril_vault_opened(door): pass
        """,
        "waiting",
        "no plugin in use specifies the hook 'toril_vault_opened'",
    ),
    "needy": (
        """
        from toril.plugins import hookimpl
        toril_needs = ["vault"]
        @hookimpl
        def toril_vault_opened(door): pass
        """,
        "waiting",
        "needs plugin 'vault'",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plugin_is_listed_with_its_error_and_stops_nobody(
    name: str, site: Site, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    source, status, error = HOSTILE[name]
    target = f"hostile_{name.replace('-', '_')}" + (":P" if name == "constructor" else "")
    site.add(f"hostile-{name}", source, version="6.6", plugins={name: target})
    site.add("acme-good", GOOD)
    plugins = load()
    info = by_name(plugins)[name]
    assert info.status == status
    assert error in (info.error or "")
    assert (info.distribution, info.version) == (f"hostile-{name}", "6.6")
    assert str(site.folder) in info.origin
    assert [each.plugin for each in plugins.functions("toril_jobs_saved")] == ["good"]
    assert plugins.active == {"good"}
    logged = [record.getMessage() for record in caplog.records]
    assert any(f"hostile-{name} 6.6" in line and error in line for line in logged)


def test_a_property_of_a_plugin_is_not_run(site: Site, load: Load) -> None:
    class Lazy:
        @property
        def toril_jobs_saved(self) -> object:
            raise AssertionError("looked at")

        @hookimpl
        def toril_jobs_removed(self, events: object) -> None:
            del events

    assert by_name(load([Lazy]))["Lazy"].hooks == ("toril_jobs_removed",)


def test_an_entry_point_may_name_a_module_a_class_or_an_object(site: Site, load: Load) -> None:
    site.add("acme-module", GOOD)
    source = """
        from toril.plugins import hookimpl

        class Saver:
            @hookimpl
            def toril_jobs_saved(self, events):
                return self

        saver = Saver()
    """
    site.add(
        "acme-class", source, plugins={"class": "acme_class:Saver", "object": "acme_class:saver"}
    )
    first, second = load(), load()
    assert first.active == {"module", "class", "object"}

    def instance(plugins: PluginSet) -> object:
        (function,) = (
            each for each in plugins.functions("toril_jobs_saved") if each.plugin == "class"
        )
        return function.ask(events=())

    # One instance per App.
    assert instance(first) is not instance(second)


def test_order_is_as_configured_else_alphabetical_and_ours_last(site: Site, load: Load) -> None:
    for name in ("zebra", "ant"):
        site.add(f"acme-{name}", GOOD)
    site.add("toril", GOOD, plugins={"aardvark": "toril_own", "bee": "toril_bee"})
    (site.folder / "toril.py").unlink()
    for name in ("toril_own", "toril_bee"):
        (site.folder / f"{name}.py").write_text(
            "from toril.plugins import hookimpl\n@hookimpl\ndef toril_jobs_saved(events): pass\n"
        )

    def order(*plugins: object, **environ: str) -> list[str]:
        loaded = load(plugins or None, **environ)
        return [each.plugin for each in loaded.functions("toril_jobs_saved")]

    assert order() == ["ant", "zebra", "aardvark", "bee"]
    assert order("zebra", "ant") == ["zebra", "ant"]
    assert order("bee", "*") == ["bee", "ant", "zebra", "aardvark"]
    assert order("*", "ant") == ["zebra", "aardvark", "bee", "ant"]
    assert order(TORIL_PLUGINS="zebra, ant") == ["zebra", "ant"]
    assert order(TORIL_PLUGINS="zebra,*") == ["zebra", "ant", "aardvark", "bee"]
    assert order("ant", TORIL_PLUGINS="zebra") == ["ant"]


def test_tryfirst_and_trylast_shift_within_the_order(site: Site, load: Load) -> None:
    def plugin(name: str, *, first: bool = False, last: bool = False) -> object:
        @hookimpl(tryfirst=first, trylast=last)
        def toril_jobs_saved() -> None:
            pass

        return SimpleNamespace(toril_name=name, toril_jobs_saved=toril_jobs_saved)

    loaded = load([plugin("a", last=True), plugin("b"), plugin("c", first=True)])
    assert [each.plugin for each in loaded.functions("toril_jobs_saved")] == ["c", "b", "a"]


def test_none_is_loaded_from_an_empty_list(site: Site, load: Load) -> None:
    site.add("acme-good", GOOD)
    assert load(TORIL_PLUGINS="").active == frozenset()
    assert load([]).active == frozenset()
    left_out = by_name(load(TORIL_PLUGINS=""))["good"]
    assert (left_out.status, left_out.error) == ("blocked", "not in TORIL_PLUGINS")


def test_a_blocked_plugin_is_not_imported(site: Site, load: Load) -> None:
    site.add("acme-bomb", "raise AssertionError('imported')")
    site.add("acme-good", GOOD)
    for plugins in (
        load(block=["bomb"]),
        load(TORIL_PLUGINS_BLOCK=" bomb ,elsewhere"),
        load(["good"]),
        load(["bomb", "*"], block=["bomb"]),
    ):
        assert by_name(plugins)["bomb"].status == "blocked"
        assert plugins.active == {"good"}


def test_a_plugin_can_be_off_until_it_is_configured(site: Site, load: Load) -> None:
    site.add("acme-vault", GOOD + "\n    toril_off_until_configured = True\n")
    resting = load()
    info = by_name(resting)["vault"]
    assert (info.status, info.error) == ("off", "it has no table in the configuration")
    assert not resting.functions("toril_jobs_saved"), "as if it were not installed"
    used = load(config={"vault": {}})
    assert used.active == {"vault"}
    with pytest.raises(ConfigurationError, match="requires, is off: it has no table"):
        load(config={"required": ["vault"]})


def test_a_plugin_given_in_code_decides_for_itself_whether_it_is_configured(load: Load) -> None:
    class Vault:
        toril_name = "vault"
        toril_off_until_configured = True

        def __init__(self, place: str | None = None) -> None:
            self.toril_off_until_configured = place is None

        @hookimpl
        def toril_jobs_saved(self, events: Sequence[JobSaved]) -> None: ...

    assert load([Vault()]).active == frozenset()
    assert load([Vault("here")]).active == {"vault"}


def test_a_name_that_no_plugin_has_is_refused(site: Site, load: Load) -> None:
    site.add("acme-archive", GOOD)
    with pytest.raises(ConfigurationError, match=r"named 'archve'.*did you mean 'archive'"):
        load(["archve"])
    with pytest.raises(ConfigurationError, match="TORIL_PLUGINS: no plugin named 'archve'"):
        load(TORIL_PLUGINS="archve")
    with pytest.raises(ConfigurationError, match="sequence of plugins"):
        load("archive")
    with pytest.raises(ConfigurationError, match="sequence of names"):
        load(block="archive")


def test_two_distributions_with_one_plugin_name(site: Site, load: Load) -> None:
    site.add("zeta-twin", GOOD, plugins={"twin": "zeta_twin"})
    site.add("acme-twin", GOOD, plugins={"twin": "acme_twin"})
    plugins = load()
    used, other = sorted(plugins.infos, key=lambda info: info.status)
    assert (used.distribution, used.status) == ("acme-twin", "active")
    assert (other.distribution, other.status) == ("zeta-twin", "conflict")
    assert other.error == "the name 'twin' of zeta-twin 1.0 is taken by acme-twin 1.0"
    found = plugins.info("twin")
    assert found is not None
    assert found.status == "active"


def test_ours_keeps_its_name_against_a_stranger(site: Site, load: Load) -> None:
    site.add("toril", GOOD, plugins={"cleanup": "toril_own"})
    (site.folder / "toril.py").rename(site.folder / "toril_own.py")
    site.add("acme-impostor", GOOD, plugins={"cleanup": "acme_impostor"})
    status = {info.distribution: info.status for info in load().infos}
    assert status == {"toril": "active", "acme-impostor": "conflict"}


def test_one_object_under_two_names_is_a_conflict(site: Site, load: Load) -> None:
    site.add("acme-twice", GOOD, plugins={"one": "acme_twice", "two": "acme_twice"})
    plugins = load()
    assert sorted(info.status for info in plugins.infos) == ["active", "conflict"]
    assert len(plugins.functions("toril_jobs_saved")) == 1


@pytest.mark.parametrize("name", ["call", "lease", "stalled", "1st", "a:b", "a b", "required"])
def test_a_name_that_could_not_stand_in_a_key_is_refused(name: str, site: Site, load: Load) -> None:
    class Plugin:
        toril_name = name

    assert by_name(load([Plugin]))[name].status == "broken"


SPECIFIES = """
    import sys
    from toril.plugins import hookimpl, hookspec

    @hookspec
    def toril_vault_opened(door, key):
        "A vault was opened."

    @hookimpl
    def toril_register(registry):
        registry.hookspecs(sys.modules[__name__])
"""
IMPLEMENTS = """
    from toril.plugins import hookimpl

    @hookimpl
    def toril_vault_opened(door):
        return door
"""


def test_a_plugin_brings_hooks_that_others_implement(site: Site, load: Load) -> None:
    # The implementation sorts before the specification.
    site.add("acme-alarm", IMPLEMENTS)
    site.add("acme-vault", SPECIFIES)
    plugins = load()
    assert plugins.active == {"alarm", "vault"}
    (function,) = plugins.functions("toril_vault_opened")
    assert function.ask(door="d", key="k") == "d"
    assert function.names("door")
    assert not function.names("key")


def test_without_that_plugin_the_other_one_waits(site: Site, load: Load) -> None:
    site.add("acme-alarm", IMPLEMENTS)
    site.add("acme-vault", SPECIFIES)
    info = by_name(load(block=["vault"]))["alarm"]
    assert info.status == "waiting"
    assert info.error == (
        "no plugin in use specifies the hook 'toril_vault_opened'; not in use: vault"
    )


def test_waiting_spreads(site: Site, load: Load) -> None:
    site.add("acme-vault", SPECIFIES + "\n    toril_needs = 'bank'\n")
    site.add("acme-alarm", IMPLEMENTS)
    site.add("acme-bank", "1 / 0")
    infos = by_name(load())
    assert infos["bank"].status == "broken"
    assert (infos["vault"].status, infos["vault"].error) == ("waiting", "needs plugin 'bank'")
    assert infos["alarm"].status == "waiting"


@pytest.mark.parametrize(
    ("specification", "error"),
    [
        ("@hookspec(firstresult=True)\ndef toril_x(a): ...", "neither `firstresult` nor"),
        ("@hookspec(historic=True)\ndef toril_x(a): ...", "neither `firstresult` nor"),
        ("@hookspec\ndef toril_x(a, b=1): ...", "may have no defaults"),
        ("@hookspec\ndef other_x(a): ...", "must begin with 'toril_'"),
        ("def toril_x(a): ...", "specifies no hooks"),
    ],
)
def test_specifications_that_could_not_be_honoured(
    specification: str, error: str, site: Site, load: Load
) -> None:
    source = f"""
import sys
from toril.plugins import hookimpl, hookspec
{specification}
@hookimpl
def toril_register(registry):
    registry.hookspecs(sys.modules[__name__])
"""
    site.add("acme-bad", source)
    info = by_name(load())["bad"]
    assert info.status == "broken"
    assert error in (info.error or "")


def test_two_plugins_with_one_specification(site: Site, load: Load) -> None:
    site.add("acme-vault", SPECIFIES)
    site.add("zeta-vault", SPECIFIES, plugins={"zvault": "zeta_vault"})
    info = by_name(load())["zvault"]
    assert (info.status, info.error) == (
        "conflict",
        "the hook 'toril_vault_opened' of zeta-vault 1.0 is taken by acme-vault 1.0",
    )


@pytest.mark.parametrize("state", ["broken", "blocked", "missing"])
def test_a_required_plugin_that_cannot_be_used_is_fatal(state: str, site: Site, load: Load) -> None:
    if state != "missing":
        site.add("acme-archive", "1 / 0" if state == "broken" else GOOD)
    block = ["archive"] if state == "blocked" else []
    expected = {"broken": "broken: ZeroDiv", "blocked": "is blocked", "missing": "no plugin named"}
    with pytest.raises(ConfigurationError, match=expected[state]):
        load(block=block, config={"required": ["archive"]})


def test_loading_logs_no_trace_of_pluggy(
    site: Site, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    site.add(
        "acme-typo", "from toril.plugins import hookimpl\n@hookimpl\ndef toril_jobs_savd(): ..."
    )
    load()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "pluggy" not in (record.exc_text or "")


def test_given_plugins_are_named_after_what_they_are(site: Site, load: Load) -> None:
    import tests.support.distributions as module

    class Named:
        toril_name = "mine"

    class Unnamed:
        pass

    infos = by_name(load([Named(), Unnamed, module]))
    assert set(infos) == {"mine", "Unnamed", "distributions"}
    assert {info.status for info in infos.values()} == {"active"}
    assert "given in code" in infos["mine"].label
    assert Path(__file__).stem in infos["mine"].origin
