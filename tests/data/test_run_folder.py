"""A run's folder: one writer, its own run and no other, checkpoints and logs that are whole."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pr1kit.data.durable_files import append_lines, read_log, write_atomically
from pr1kit.data.run_folder import RunFolder, find_damage


def checkpoint(folder, step, **files):
    """A signed checkpoint with these files."""
    aside = folder.path / ".saving"
    (aside / f"checkpoint-{step}").mkdir(parents=True)
    for name, content in (files or {"weights": "x" * 100, "state": "{}"}).items():
        (aside / f"checkpoint-{step}" / name).write_text(content)
    return folder.finish_checkpoint(aside, step=step)


def test_a_folder_has_one_writer_and_names_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        with pytest.raises(ValueError, match=rf"is being written by process {os.getpid()} on .* since 20"):
            with RunFolder(tmp_path / "run").lock():
                pass
    with folder.lock():
        pass


def test_a_dead_holder_does_not_keep_the_lock(tmp_path):
    code = f"""
import os, signal
from pr1kit.data.run_folder import RunFolder
with RunFolder({str(tmp_path)!r}).lock():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert (tmp_path / ".holder").exists()
    with RunFolder(tmp_path).lock():
        assert f"process {os.getpid()} on" in (tmp_path / ".holder").read_text()


def test_a_folder_knows_its_run(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.check({"task": "ocr"})
    folder.claim({"task": "ocr", "steps": 3, "sizes": (1, 2), "save_steps": 5})
    assert folder.check({"task": "ocr", "steps": 3, "sizes": (1, 2), "save_steps": 9}, safe=("save_steps",))
    with pytest.raises(ValueError, match=r"with other settings \(steps was 3, is 4; save_steps was 5, is None\)"):
        folder.check({"task": "ocr", "steps": 4, "sizes": (1, 2)})
    (tmp_path / "settings.json").write_text('{"task": "ocr"}')
    with pytest.raises(ValueError, match="a run of an earlier version of the kit"):
        folder.check({"task": "ocr"})
    (tmp_path / "settings.json").write_text('{"task": ')
    with pytest.raises(ValueError, match=r"settings\.json' is damaged"):
        folder.check({"task": "ocr"})


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file' cannot be written: "):
        with RunFolder(tmp_path / "file").lock():
            pass


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbled"])
@pytest.mark.parametrize("name", ["weights", "state", "whole.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, capsys, name, damage):
    folder = RunFolder(tmp_path)
    older, newer = checkpoint(folder, 9), checkpoint(folder, 10)
    assert folder.newest_checkpoint() == newer
    path = newer / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "garbled": b"#" + content[1:]}[damage])
    assert folder.newest_checkpoint() == older
    assert "checkpoint-10 is damaged" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-9", "damaged-checkpoint-10"]
    assert (tmp_path / "damaged-checkpoint-10" / "state").exists() or name == "state"


def test_what_was_not_signed_does_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "weights").write_text("half")
    assert find_damage(tmp_path / "checkpoint-3") == "it was not written to its end"
    assert folder.newest_checkpoint(say=lambda words: None) is None
    assert (tmp_path / "damaged-checkpoint-3" / "weights").exists()


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 20, 3):
        checkpoint(folder, step)
    folder.keep_newest(2)
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-20", "checkpoint-3"]


def test_logs_are_cut_to_a_step_and_what_goes_is_kept_beside(tmp_path):
    path = tmp_path / "log.jsonl"
    rows = [{"step": i, "text": f"a\u2028b\u0085{i}"} for i in (1, 2, 3)]
    append_lines(path, rows)
    with path.open("a") as file:
        file.write('{"step": 4, "te')
    assert RunFolder(tmp_path).cut("log.jsonl", 2) == []
    assert read_log(path) == rows[:2]
    assert read_log(tmp_path / "log.until-3.jsonl") == rows
    append_lines(path, rows[2:])
    assert RunFolder(tmp_path).cut("log.jsonl", 3) == []
    assert read_log(path) == rows


def test_a_line_that_cannot_be_read_is_named_and_kept_beside(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    path.write_text('{"step": 1}\nnot json\n{"step": 2}\n{"st')
    with pytest.raises(ValueError, match=r"Line 2 of the log .*rollouts\.jsonl' cannot be read"):
        read_log(path)
    (fault,) = RunFolder(tmp_path).cut("rollouts.jsonl", 2)
    assert fault.startswith("Line 2 of")
    assert read_log(path) == [{"step": 1}, {"step": 2}]
    assert "not json" in (tmp_path / "rollouts.until-2.jsonl").read_text()


def test_rows_are_added_after_the_last_whole_line(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    append_lines(path, [{"step": 1, "text": "half of a pair: \ud83d"}])
    with path.open("a") as file:
        file.write('{"step": 2, "te')
    append_lines(path, [{"step": 2}])
    assert [json.loads(line)["step"] for line in path.read_text(errors="surrogatepass").split("\n") if line] == [1, 2]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_atomically(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_atomically(path, None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
