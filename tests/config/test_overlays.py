"""A configuration file that is named but would not be used stops the run."""

import pytest

from husai.config.overlays import check_overlays
from husai.errors import HusaiError


@pytest.fixture
def profile(tmp_path):
    """A profile in a folder, with a configuration file of its own."""
    folder = tmp_path / "profiles/big"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("configfile: [config/big.yaml]\ncores: 1\n")
    return tmp_path


USED = ["/checkout/config/big.yaml"]


def test_what_is_used_may_be_named_in_any_way(profile):
    check_overlays(["-n", "--profile", "profiles/big"], {}, USED, profile)
    check_overlays(["--configfile", "config/big.yaml", "--cores", "2"], {}, USED)
    check_overlays(["--configfiles=./config/big.yaml"], {}, USED)
    check_overlays(["all"], {}, [])


@pytest.mark.parametrize(
    ("argv", "environment"),
    [
        (["--profile", "profiles/big", "--configfile", "mine.yaml"], {}),
        (["--profile=profiles/big", "--configfile", "mine.yaml"], {}),
        (["--configfile", "mine.yaml"], {"SNAKEMAKE_PROFILE": "profiles/big"}),
        (["--configfile", "config/big.yaml", "-n", "--configfile", "mine.yaml"], {}),
    ],
)
def test_a_file_that_another_replaces_is_named_with_the_whole_command(profile, argv, environment):
    with pytest.raises(HusaiError) as caught:
        check_overlays(argv, environment, ["/run/mine.yaml"], profile)
    line = str(caught.value)
    assert line.startswith("config/big.yaml: named, but replaced")
    assert line.endswith("--configfile config/big.yaml mine.yaml")
    assert "\n" not in line


def test_a_profile_that_names_no_file_or_is_not_there_changes_nothing(tmp_path):
    (tmp_path / "config.yaml").write_text("cores: 2\n")
    for name in (str(tmp_path), str(tmp_path / "absent")):
        check_overlays(["--profile", name, "--configfile", "mine.yaml"], {}, ["/run/mine.yaml"])
