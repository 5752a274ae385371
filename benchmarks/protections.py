"""Takes each protection away, one at a time, and sees that a test fails: what is not noticed protects nobody.

    python benchmarks/protections.py [--only WORD]

The package is copied into a temporary folder, one line of it is changed there, and the test that should notice is run
on it. First all the tests are run on the copy as it is, and must pass. A test that does not end within three minutes
has noticed, too (an upload that is waited for in vain). About ten minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
API, ATTACKS, OPERATION = (f"tests/serving/test_{name}.py" for name in ("api", "attacks", "operation"))
PAGE, FOLDER, HOSTILE = "tests/serving/test_page.py", "tests/models/test_folder.py", "tests/media/test_hostile.py"
READERS, WEIGHTS, DAMAGE = "tests/data/test_readers.py", "tests/test_weights.py", "tests/test_damage.py"
LETTER, STRANGERS = "tests/models/test_folder_to_the_letter.py", "tests/models/test_strangers.py"


class Protection(NamedTuple):
    """What is protected, the line that does it, what is left without it, and who should notice."""

    what: str
    file: str
    line: str
    without: str
    test: str


PROTECTIONS = (
    Protection(
        "a client names no file outside the allowed folders", "serving/api.py",
        "if any(source.is_relative_to(folder.resolve()) for folder in allowed) and source.is_file()",
        "if source.is_file()", f"{API}::test_a_file_may_be_named_in_an_allowed_folder_alone"),
    Protection(
        "nor by a link in one of them", "serving/api.py", "Path(path).resolve()", "Path(path).absolute()",
        f"{API}::test_a_file_may_be_named_in_an_allowed_folder_alone"),
    Protection(
        "a name that begins like a formula is quoted in tables", "serving/forms.py",
        "if name[:1] in", "if False and name[:1] in", f"{API}::test_names_stay_text"),
    Protection(
        "requests by another name (DNS rebinding) are refused", "serving/gate.py",
        'if "*" not in hosts and name not in hosts', "if False",
        f"{API}::test_pages_of_other_sites_and_other_names_get_nothing"),
    Protection(
        "pages of other sites are refused", "serving/gate.py", 'if origin and origin.split("://")[-1] != host',
        "if False", f"{API}::test_pages_of_other_sites_and_other_names_get_nothing"),
    Protection(
        "a body is refused by the size that it declares", "serving/gate.py",
        '_check_size(int(dict(scope["headers"]).get(b"content-length", b"0")), limits.body_bytes)', "pass",
        f"{ATTACKS}::test_a_huge_body_is_refused_by_its_declaration"),
    Protection(
        "and by what comes of it", "serving/gate.py", "_check_size(taken, limits.body_bytes)", "pass",
        f"{OPERATION}::test_uploads_that_are_too_large_are_refused"),
    Protection(
        "an upload ends in its time (slow loris)", "serving/gate.py",
        "None if over else max(0.0, until_s - time.monotonic())", "None",
        f"{ATTACKS}::test_an_upload_that_never_ends_is_given_up"),
    Protection(
        "uploads on their way have seats", "serving/desk.py",
        "waiting = len(self._waiting) + len(self._seats)", "waiting = len(self._waiting)",
        f"{ATTACKS}::test_uploads_that_wait_have_no_more_room_than_others"),
    Protection(
        "a client has so many clips and no more", "serving/desk.py", "elif own >= self.limits.per_client", "elif False",
        f"{OPERATION}::test_who_has_too_many_clips_is_told_when_to_come_again"),
    Protection(
        "so many clips wait and no more", "serving/desk.py", "if waiting >= self.limits.queue", "if False",
        f"{OPERATION}::test_a_full_queue_refuses_before_it_takes"),
    Protection(
        "nobody is let in without a key", "serving/gate.py", "if not keys:", "if True:",
        f"{OPERATION}::test_without_a_key_nobody_is_let_in"),
    Protection(
        "a clip is its client's alone", "serving/service.py", "if job is None or job.owner != owner", "if job is None",
        f"{OPERATION}::test_a_clip_is_its_clients_alone"),
    Protection(
        "an upload is deleted with its clip", "serving/desk.py",
        "(self.uploads / work.job.id).unlink(missing_ok=True)", "pass",
        f"{OPERATION}::test_what_was_taken_outlives_a_kill"),
    Protection(
        "and one that is nobody's at the next start", "serving/desk.py", "                file.unlink()",
        "                pass", f"{OPERATION}::test_what_was_taken_outlives_a_kill"),
    Protection(
        "what was under way is taken up again", "serving/desk.py", "self._enqueue(Work(job, job.owner))", "pass",
        f"{OPERATION}::test_what_was_taken_outlives_a_kill"),
    Protection(
        "one service a folder", "serving/desk.py", "self._lock.acquire()", "pass",
        f"{OPERATION}::test_wrong_starts_are_told"),
    Protection(
        "results are deleted after their time", "serving/desk.py",
        "self.table.forget(now_s - self.limits.keep_s, now_s)", "pass",
        f"{OPERATION}::test_results_are_deleted_after_their_time"),
    Protection(
        "logs hold no requests", "serving/run.py", 'log_level="warning"', 'log_level="trace"',
        f"{ATTACKS}::test_logs_hold_no_names_no_keys_and_no_ids"),
    Protection(
        "a name is text on the page", "serving/page/page.js", '$("title").textContent', '$("title").innerHTML',
        f"{PAGE}::test_a_name_that_would_like_to_be_code_stays_a_name"),
    Protection(
        "and so is a model's card", "serving/page/page.js", '($("card").textContent =', '($("card").innerHTML =',
        f"{PAGE}::test_a_name_that_would_like_to_be_code_stays_a_name"),
    Protection(
        "playlists open nothing", "media/video.py",
        '{"protocol_whitelist": "file", "format_whitelist": CONTAINERS}', "{}",
        f"{HOSTILE}::test_a_playlist_opens_nothing"),
    Protection(
        "addresses are no paths", "media/video.py", "if not path.is_file():", "if False:",
        f"{HOSTILE}::test_addresses_are_no_paths"),
    Protection(
        "memory of the process that reads is bounded", "data/readers.py",
        '_limit("AS", bounds.memory_bytes)', "pass", f"{READERS}::test_memory_is_bounded"),
    Protection(
        "and so is its processor time", "data/readers.py", 'kind = getattr(resource, f"RLIMIT_{what}")',
        'kind = getattr(resource, f"RLIMIT_{what}" if what != "CPU" else "RLIMIT_CORE")',
        f"{READERS}::test_a_file_that_takes_too_much_processor_time_is_given_up"),
    Protection(
        "a decoder that crashes leaves no core", "data/readers.py", '_limit("CORE", 0)', "pass",
        f"{READERS}::test_a_decoder_that_crashes_leaves_no_core"),
    Protection(
        "a file of which nothing comes is given up", "data/readers.py", "if time.monotonic() > until_s", "if False",
        f"{READERS}::test_a_file_of_which_nothing_comes_is_given_up"),
    Protection(
        "weights are those that the folder names", "models/folder.py", "if got != expected:", "if False:",
        f"{FOLDER}::test_changed_weights_are_refused"),
    Protection(
        "weights are numbers", "models/folder.py", "if not torch.isfinite(own).all()", "if False",
        f"{FOLDER}::test_weights_that_are_no_numbers_are_refused"),
    Protection(
        "a folder that asks for code is refused", "models/folder.py", "check_settings(about)", "pass",
        f"{LETTER}::test_an_encoder_that_asks_for_code"),
    Protection(
        "and one whose settings do not go with its weights, before they cost anything", "models/folder.py",
        "check_shapes(weights, lambda", "(lambda *_, **__: None)(weights, lambda",
        f"{STRANGERS}::test_what_its_weights_do_not_fill_is_refused_before_it_is_allocated"),
    Protection(
        "and the rest of its network, once its encoders are made", "models/folder.py", "check_shapes(weights, build)",
        "pass", f"{STRANGERS}::test_what_its_weights_do_not_fill_is_refused_before_it_is_allocated"),
    Protection(
        "and one that says what this version does not know", "models/folder.py", "check_fields(description)", "pass",
        f"{STRANGERS}::test_an_unknown_field_is_refused"),
    Protection(
        "a label is no formula", "models/strangers.py", 'and label[0] not in "=+-@"', "",
        f"{FOLDER}::test_a_changed_description_is_refused"),
    Protection(
        "what is sealed says whether it is as it was written", "seals.py", "about.pop(SEAL) != _digest(about)",
        "about.pop(SEAL) is None", f"{DAMAGE}::test_what_is_sealed_says_whether_it_is_as_it_was_written"),
    Protection(
        "features are those that were written", "data/features.py",
        "if zlib.crc32(flat.tobytes()) != place.check[stream]", "if False", f"{DAMAGE}::test_features"),
    Protection(
        "a file takes an older one's place when it is whole", "io.py", "partial = _beside(target)",
        "partial = target", "tests/test_faults.py::test_a_full_disk_is_told_and_the_older_file_is_whole"),
    Protection(
        "members lie in their ensemble's folder", "models/folder.py",
        "not all(str(name).isdecimal() for name in names)", "False",
        f"{FOLDER}::test_an_ensemble_with_odd_members_is_refused"),
    Protection(
        "a download has its name when it is right", "weights.py", "if sha256_of(part) == weights.sha256", "if True",
        f"{WEIGHTS}::test_wrong_bytes_never_get_the_name"),
    Protection(
        "a damaged file of the cache is fetched again", "weights.py",
        "if cached.is_file() and sha256_of(cached) == weights.sha256", "if cached.is_file()",
        f"{WEIGHTS}::test_a_damaged_cached_file_is_replaced"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="those whose description holds this word")
    asked = parser.parse_args()
    chosen = [own for own in PROTECTIONS if asked.only in own.what]
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "src"
        shutil.copytree(ROOT / "src", copy)
        if told := _fails(copy, *sorted({own.test for own in chosen})):
            sys.exit(f"the tests fail on the package as it is: {told}")
        unnoticed = [own.what for own in chosen if not _noticed(copy, own)]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} noticed")
    sys.exit(1 if unnoticed else 0)


def _noticed(copy: Path, own: Protection) -> bool:
    file = copy / "reactometer" / own.file
    text = file.read_text(encoding="utf-8")
    if text.count(own.line) != 1:
        sys.exit(f"{own.file} has this line {text.count(own.line)} times: {own.line}")
    file.write_text(text.replace(own.line, own.without), encoding="utf-8")
    told = _fails(copy, own.test)
    file.write_text(text, encoding="utf-8")
    print(f"{'noticed' if told else 'NOT NOTICED'}: {own.what}: {told.strip()[:100]}", flush=True)
    return bool(told)


def _fails(copy: Path, *tests: str) -> str:
    """How the tests fail; empty where they pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "slow or not slow", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180 * len(tests), check=False
        )
    except subprocess.TimeoutExpired:
        return "does not end"
    if done.returncode not in (0, 1):
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    lines = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
    return " ".join((lines or ["fails"])[0].split()) if done.returncode else ""


if __name__ == "__main__":
    main()
