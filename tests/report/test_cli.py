"""The command line: what it prints, where it writes, and how it refuses."""

import errno
import json
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from sinai.common import machine as machines
from sinai.report.cli import main, sinai
from sinai.traces import schema

#: What the installed command `sinai` does.
SCRIPT = "from sinai.report.cli import main; raise SystemExit(main())"

SYNTH_TINY = ["trace", "synth", "--model", "tiny", "--scheme", "structured:7:8", "--images", "2"]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A small synthetic trace, structured:7:8, of two images."""
    path = tmp_path_factory.mktemp("traces") / "tiny.npz"
    assert main([*SYNTH_TINY, "-o", str(path)]) == 0
    return path


def rewritten(source, target, change):
    """Copy a .npz, with `change` applied to its manifest (a dict)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name == "manifest.npy":
                with old.open(name) as file:
                    manifest = json.loads(np.lib.format.read_array(file).tobytes())
                change(manifest)
                with new.open(name, "w") as file:
                    text = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
                    np.lib.format.write_array(file, text)
            else:
                new.writestr(name, old.read(name))
    return target


def commands(group, *before):
    """Every verb below `group`, as a list of words."""
    for name, command in group.commands.items():
        yield [*before, name]
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)


@pytest.mark.parametrize("verb", [[], *commands(sinai)], ids=" ".join)
def test_help_of_every_verb(verb, capsys):
    assert main([*verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: {' '.join(['sinai', *verb])}")
    assert "\x08" not in out


@pytest.mark.parametrize("verb", [[], *commands(sinai)], ids=" ".join)
def test_every_option_is_explained(verb):
    command = sinai
    for word in verb:
        command = command.commands[word]
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name


def test_examples_of_the_help_parse(tmp_path, monkeypatch):
    """Each line that begins with `sinai` in a help text is a command line that exists."""
    examples = []
    for verb in [[], *commands(sinai)]:
        text = CliRunner().invoke(sinai, [*verb, "--help"]).output
        examples += re.findall(r"^ +sinai (.+)$", text, re.MULTILINE)
    assert len(examples) >= 6
    for example in examples:
        words, command = example.split(), sinai
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(example, words)  # raises on unknown options and missing ones


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"sinai \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_run_writes_a_directory_and_a_summary(trace, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", str(trace), "--machine", "structured-small", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    summary = json.loads((out / "summary.json").read_text())
    assert f"{summary['cycles']:.0f} cycles" in printed.out
    assert "synthetic masks" in printed.out
    assert {path.name for path in out.iterdir()} == {
        "summary.json",
        "layers.csv",
        "config.yaml",
        "ert.yaml",
        "art.yaml",
    }


def test_run_prints_json_alone(trace, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--set", "dma.bytes_per_cycle=16", "--image", "1", "--json", "-o", str(out)]
    assert main(["run", str(trace), "--machine", "structured-small", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "summary.json").read_text())
    assert printed["images"] == 1
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["machine"]["dma"]["bytes_per_cycle"] == 16


def test_dense_run_of_the_same_trace_has_no_noise(trace, tmp_path, capsys):
    arguments = ["run", str(trace), "--machine", "structured-small", "--json", "-o"]
    assert main([*arguments, str(tmp_path / "dense"), "--dense"]) == 0
    assert json.loads(capsys.readouterr().out)["noise"] == 0
    assert main([*arguments, str(tmp_path / "noisy")]) == 0
    assert json.loads(capsys.readouterr().out)["noise"] == pytest.approx(7 / 8)


def test_synthetic_traces_are_repeatable_and_say_so(trace, tmp_path, capsys):
    again = tmp_path / "again.npz"
    assert main([*SYNTH_TINY, "-o", str(again)]) == 0
    first, second = schema.load(trace), schema.load(again)
    assert first.synthetic
    assert first.manifest.arrays == second.manifest.arrays
    assert second.manifest.command == " ".join(["sinai", *SYNTH_TINY, "-o", str(again)])
    assert "synthetic" in capsys.readouterr().out


def test_trace_info_and_verify(trace, capsys):
    assert main(["trace", "info", str(trace)]) == 0
    assert "synthetic trace of tiny" in capsys.readouterr().out
    assert main(["trace", "info", str(trace), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["network"], record["images"]) == ("tiny", 2)
    assert main(["trace", "verify", str(trace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == len(record["layers"])


def test_trace_that_breaks_its_promise_fails_the_check(trace, tmp_path, capsys):
    """Masks of 7:8 under a manifest that says 6:8: whole, but wrong: exit 1, not 2."""

    def promise(manifest):
        manifest["scheme"], manifest["noise_target"] = "structured:6:8", 0.75

    broken = rewritten(trace, tmp_path / "broken.npz", promise)
    assert main(["trace", "verify", str(broken)]) == 1
    assert re.match(r"sinai: .*broken\.npz: layer stem.*keeps 2\n$", capsys.readouterr().err)


def test_bundled_traces_are_found_by_name(trace, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(schema, "bundled", lambda: {"some-masks": trace})
    assert main(["trace", "list"]) == 0
    assert re.match(r"some-masks +tiny +structured:7:8 +synthetic", capsys.readouterr().out)
    assert main(["trace", "list", "--json"]) == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["network"], listed["images"]) == ("some-masks", "tiny", 2)
    for verb in ("info", "verify"):
        assert main(["trace", verb, "some-masks"]) == 0
    out = str(tmp_path / "run")
    assert main(["run", "some-masks", "--machine", "structured-small", "-o", out]) == 0


def test_every_bundled_trace_is_listed(capsys):
    assert main(["trace", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(schema.bundled())


def test_figure5_of_one_trace(trace, tmp_path, capsys):
    out = tmp_path / "figure5"
    arguments = ["--traces", str(trace), "--network", "tiny", "--no-sweeps", "--workers", "1"]
    assert main(["figure5", *arguments, "--json", "-o", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "summary.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        "figure5.csv",
        "figure5.png",
        "figure5.svg",
        "summary.json",
    }
    rows = (out / "figure5.csv").read_text().splitlines()
    assert sum(",structured:7:8," in row for row in rows) == 2
    assert main(["figure5", *arguments, "--force", "-o", str(out)]) == 0
    assert "tiny, synthetic masks, at 7/8 noise" in capsys.readouterr().out


def test_verilog_writes_files_and_names_them(tmp_path, capsys):
    out = tmp_path / "verilog"
    assert main(["verilog", "structured-small", "-o", str(out)]) == 0
    printed = set(capsys.readouterr().out.splitlines())
    assert printed == {str(path) for path in out.iterdir()}
    assert {"ports.json", "verilator.vlt"} < {path.name for path in out.iterdir()}


def test_energy_tables(capsys):
    assert main(["energy", "show", "--machine", "structured-small"]) == 0
    text = capsys.readouterr().out
    assert "assumed" in text
    assert main(["energy", "show", "--machine", "structured-small", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    assert all(name in text for name in (*tables["energy"], *tables["area"]))
    assert all(entry["source"] for entry in tables["energy"].values())


@pytest.fixture
def bad(trace, tmp_path):
    """Broken inputs by name."""
    data = bytearray(trace.read_bytes())
    files = {"trace": trace, "folder": tmp_path}
    files["missing"] = tmp_path / "none.npz"
    files["text"] = tmp_path / "text.npz"
    files["text"].write_text("masks, I think")
    files["cut"] = tmp_path / "cut.npz"
    files["cut"].write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(trace) as archive:
        member = archive.getinfo("mask/0.npy")
    flipped = bytearray(data)
    flipped[member.header_offset + 30 + len("mask/0.npy") + member.compress_size // 2] ^= 0x10
    files["flipped"] = tmp_path / "flipped.npz"
    files["flipped"].write_bytes(flipped)
    files["future"] = rewritten(
        trace, tmp_path / "future.npz", lambda manifest: manifest.update(schema=99)
    )
    files["unknown_key"] = tmp_path / "unknown.yaml"
    files["unknown_key"].write_text("name: a\nkind: structured\nlanes: 2\npses: 4\nlane: 3\n")
    files["no_yaml"] = tmp_path / "no.yaml"
    files["no_yaml"].write_text("lanes: [1")
    files["old"] = tmp_path / "old"
    files["old"].mkdir()
    (files["old"] / "summary.json").write_text("old")
    (files["old"] / "ports.json").write_text("old")
    (files["old"] / "figure5.csv").write_text("old")
    files["new"] = tmp_path / "new"
    return files


RUN = "run {trace} --machine structured-small -o {new}"
SYNTH = "trace synth --model tiny --scheme dense -o {new}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "run {trace} --machine strctured -o {new}",
            "'strctured': no such preset or file; presets",
        ),
        ("run {trace} --machine {folder}/no -o {new}", "no such preset or file; presets are"),
        ("run {trace} --machine {folder} -o {new}", r"\(Is a directory\); give a preset or a YAML"),
        ("run {trace} --machine {missing}.yaml -o {new}", r"none\.npz\.yaml: cannot be read"),
        (
            "run {trace} --machine {unknown_key} -o {new}",
            r"unknown\.yaml: unknown key lane \(value",
        ),
        ("run {trace} --machine {no_yaml} -o {new}", r"no\.yaml: line 1: not valid YAML"),
        (RUN + " --set lanes=3", "lanes must be a power of two between 1 and 64, not 3"),
        (RUN + " --set lanes", "--set lanes: must be KEY=VALUE"),
        (RUN + " --image 2", "image must be between 0 and 1, not 2"),
        (RUN + " --ideal", "ideal bound is defined for unstructured machines only"),
        (RUN + " --set clock_ns=0.1", "clock_ns"),
        ("run {trace} --machine unstructured -o {new}", "structured:7:8"),
        (
            "run {missing} --machine structured -o {new}",
            r"none\.npz: cannot be read \(No such file",
        ),
        ("run {folder} --machine structured -o {new}", r"cannot be read \(Is a directory\)"),
        ("run {text} --machine structured -o {new}", r"text\.npz: not a \.npz file"),
        ("run {cut} --machine structured -o {new}", r"cut\.npz: not a \.npz file, or cut short"),
        ("run {flipped} --machine structured -o {new}", r"flipped\.npz: .*(mask/0|damaged)"),
        ("run {future} --machine structured -o {new}", r"future\.npz: schema is 99; this version"),
        ("run {trace} --machine structured -o {old}", "old: exists already; give another name"),
        ("run {trace} --machine structured -o {trace}", "is a file; give the name of a directory"),
        ("run {trace} --machine structured -o {folder} --force", "holds files but no summary.json"),
        ("run {trace} --machine structured", "Missing option '-o'"),
        ("run {trace} -o {new}", "Missing option '--machine'"),
        ("run", "Missing argument 'TRACE'"),
        ("trace info {cut}", r"cut\.npz: "),
        ("trace verify {flipped}", r"flipped\.npz: "),
        ("trace verify {missing}", r"none\.npz: cannot be read"),
        (SYNTH + " --scheme structured:9:8", "q noisy of 8 must be between 0 and 8, not 9"),
        (SYNTH + " --scheme unstructured:1.5", "noise ratio must be between 0 and 1, not 1.5"),
        (SYNTH + " --scheme foo", "scheme must be dense, unstructured:RATIO .* not 'foo'"),
        (SYNTH + " --model resnet19", "network must be one of .*resnet18.* not 'resnet19'"),
        (SYNTH + " --images 0", "images must be at least 1, not 0"),
        (SYNTH + " --images few", "'few' is not a valid integer"),
        (SYNTH + " --seed -1", "seed must not be negative, not -1"),
        ("trace synth --model tiny --scheme dense -o {trace}", r"tiny\.npz: exists already"),
        ("trace synth --model tiny --scheme dense -o {folder}", "is a directory; give the name"),
        ("verilog strctured -o {new}", "'strctured': no such preset or file; presets"),
        ("verilog structured -o {old}", "old: exists already; give another name"),
        ("verilog {unknown_key} -o {new}", r"unknown\.yaml: unknown key lane \(value 3\); known"),
        ("energy show --machine {no_yaml}", r"no\.yaml: line 1: not valid YAML"),
        ("figure5 -o {new} --network resnet19", "network must be one of .* not 'resnet19'"),
        ("figure5 -o {new} --network tiny --traces {cut}", r"cut\.npz: not a \.npz file"),
        ("figure5 -o {new} --workers 0", "0 is not in the range"),
        ("figure5 -o {old}", "old: exists already; give another name"),
        ("figure5 -o {folder} --force", r"holds files but no figure5\.csv"),
        ("energy", "Usage: sinai energy"),
        ("fly", "No such command 'fly'"),
        ("--fast", "No such option"),
    ],
)
def test_bad_input_is_refused_in_a_line(words, message, bad, capsys):
    """Exit status 2 and what is wrong; no traceback; nothing is written or changed."""
    folder = bad["folder"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(words.format(**bad).split()) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err), printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert not bad["new"].exists()
    assert not [path for path in folder.rglob(".*")]


def test_force_replaces_a_result(trace, bad):
    arguments = ["run", str(trace), "--machine", "structured-small", "--force", "-o"]
    assert main([*arguments, str(bad["old"])]) == 0
    assert not (bad["old"] / "ports.json").exists()
    assert json.loads((bad["old"] / "summary.json").read_text())["network"] == "tiny"


def test_interrupted_run_leaves_the_old_result(trace, bad, monkeypatch, capsys):
    """Ctrl-C while the new result is written: status 130, the old one whole, nothing left over."""

    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sinai.report.run.write_run", interrupted)
    arguments = ["run", str(trace), "--machine", "structured-small", "--force", "-o"]
    assert main([*arguments, str(bad["old"])]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert (bad["old"] / "summary.json").read_text() == "old"
    assert not [path for path in bad["folder"].iterdir() if path.name.startswith(".")]


def test_our_own_bugs_exit_70_with_a_traceback(monkeypatch, capsys):
    def broken(_source):
        raise RuntimeError("no one thought of this")

    monkeypatch.setattr(machines, "load_machine", broken)
    assert main(["energy", "show"]) == 70
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "RuntimeError: no one thought of this" in printed
    assert "bug of ours" in printed


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP]
)
def test_a_full_disk_or_an_impossible_name_is_not_our_bug(monkeypatch, capsys, number):
    def refused(_source):
        raise OSError(number, os.strerror(number), "/some/file")

    monkeypatch.setattr(machines, "load_machine", refused)
    assert main(["energy", "show"]) == 2
    assert capsys.readouterr().err == f"sinai: /some/file: {os.strerror(number)}\n"


def test_the_installed_command_exits_with_the_status():
    """Through the script of the environment, as a user calls it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "energy", "show", "--machine", "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sinai: machine 'none': no such preset or file")


def test_reader_that_leaves_early_sees_no_traceback():
    """`sinai energy show | true`: the pipe is closed before the first line is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "energy", "show"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1
