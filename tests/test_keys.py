import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fastapi_tollbooth import ConfigurationError, TollboothSettings
from fastapi_tollbooth.keys import KeyRing, fingerprint, hkdf, load_key_ring

OLD, NEW = b"o" * 32, b"n" * 32


def configured(**values: object) -> TollboothSettings:
    return TollboothSettings(_env_file=None, **values)  # type: ignore[arg-type]


def test_hkdf_is_rfc_5869() -> None:
    # Appendix A.3: SHA-256, zero-length salt and info.
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(bytes.fromhex("0b" * 22), b"").hex() == okm[:64]


def test_the_newest_key_signs_and_old_ones_stay_good() -> None:
    ring = KeyRing((NEW, OLD))
    assert ring.newest == fingerprint(NEW)
    assert ring.derive(fingerprint(OLD), b"purpose") == KeyRing((OLD,)).derive(fingerprint(OLD), b"purpose")
    assert ring.derive(fingerprint(NEW), b"a") != ring.derive(fingerprint(NEW), b"b")
    assert ring.derive(b"????", b"a") is None


def test_secrets_are_not_shown() -> None:
    assert "nnn" not in repr(KeyRing((NEW,)))
    assert "nnn" not in repr(configured(secret="n" * 32))


def test_a_configured_ring_is_split_newest_first() -> None:
    assert load_key_ring(configured(secret=f"{'n' * 32}, {'o' * 32}")).secrets == (NEW, OLD)


@pytest.mark.parametrize("secret", ["short", "", f"{'n' * 32},", f"{'n' * 32},short"])
def test_short_secrets_are_refused(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="at least 32 characters") as error:
        load_key_ring(configured(secret=secret))
    assert "nnnn" not in str(error.value)


def test_production_needs_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="TOLLBOOTH_SECRET"):
        load_key_ring(configured(environment="production"))


def test_development_makes_a_secret_once_beside_the_database(tmp_path: Path) -> None:
    settings = configured(database_url=f"sqlite:///{tmp_path}/tollbooth.db")
    first = load_key_ring(settings)
    file = tmp_path / "tollbooth.db.secret"
    assert load_key_ring(settings) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["tollbooth.db.secret"]


def test_a_ledger_in_memory_has_a_secret_in_memory() -> None:
    settings = configured(database_url="sqlite://")
    assert load_key_ring(settings) != load_key_ring(settings)


def test_a_spoilt_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tollbooth.db.secret").write_text("oops")
    with pytest.raises(ConfigurationError, match="delete it"):
        load_key_ring(configured(database_url=f"sqlite:///{tmp_path}/tollbooth.db"))


def test_many_workers_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    script = (
        "from fastapi_tollbooth import TollboothSettings; from fastapi_tollbooth.keys import load_key_ring;"
        f"print(load_key_ring(TollboothSettings(_env_file=None, database_url='sqlite:///{tmp_path}/t.db')).newest.hex())"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert len({worker.communicate()[0] for worker in workers}) == 1
    assert all(worker.returncode == 0 for worker in workers)
