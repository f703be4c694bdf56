"""The real `kaggle` client against a local server on the loopback, faults included."""
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from kaggle_server import Competition, KaggleServer

from mlx_bert_training.kaggle.archive import KaggleArchiveError, extract_zip
from mlx_bert_training.kaggle.client import KaggleClient, KaggleSubmitError, competition_slug, find_competition_files
from mlx_bert_training.kaggle.connection import (
    KaggleCredentialsError,
    KaggleError,
    KaggleLimitError,
    KaggleNotFoundError,
    KaggleRulesError,
    KaggleTransferError,
    KaggleUnavailableError,
    RetryPolicy,
    credential_places,
    no_credentials,
)
from mlx_bert_training.runtime.transfer import TransferLimits
from mlx_bert_training.secrets import Secrets

IDS = [str(i) for i in range(30)]
FILES = {"train.csv": b"id,text,target\n" + b"".join(b"%d,word %d,%d\n" % (i, i, i % 2) for i in range(2000)),
         "test.csv": b"id,text\n" + b"".join(b"%d,word\n" % i for i in range(30)),
         "sample_submission.csv": b"id,target\n" + b"".join(b"%d,0\n" % i for i in range(30))}
KEY, TOKEN, LINK = "ada-secret-key", "KGAT_ada_token", "signed-link-secret"
BASIC = "YWRhOmFkYS1zZWNyZXQta2V5"     # base64 of ada:ada-secret-key


@pytest.fixture
def site():
    solution = {i: str(int(i) % 2) for i in IDS}
    with KaggleServer(Competition("tiny-sentiment", dict(FILES), solution)) as server: yield server


@pytest.fixture
def environment(site, tmp_path, monkeypatch):
    "A home without credentials, and the site as proxy."
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("KAGGLE_", "VERBOSE")): monkeypatch.delenv(name)
    for name, value in {"HOME": str(home), "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": site.url,
                        "KAGGLE_CONFIG_DIR": str(home)}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def client(environment):
    environment.setenv("KAGGLE_USERNAME", "ada")
    environment.setenv("KAGGLE_KEY", KEY)
    return KaggleClient(timeout=10, policy=RetryPolicy(attempts=3, backoff=0.02, longest=2))


@pytest.fixture
def submission(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,target\n" + "".join(f"{i},{int(i) % 2 if i != '0' else 1}\n" for i in IDS))
    return path


class TestWholeWay:
    def test_download_submit_score(self, site, client, tmp_path, submission):
        folder = client.download("tiny-sentiment", tmp_path / "data")
        assert {n: (folder / n).read_bytes() for n in FILES} == FILES
        assert sorted(p.name for p in folder.iterdir()) == sorted([".kaggle-files.json", *FILES])
        sent = client.submit("tiny-sentiment", submission, "a first try")
        assert sent.status == "pending" and sent.description.startswith("a first try [20")
        scored = client.wait_for_score(sent.ref, timeout=5)
        assert (scored.status, scored.public_score, scored.private_score) == ("complete", 0.9, None)
        assert client.limits("tiny-sentiment").left == 4
        assert [s.ref for s in client.submissions("tiny-sentiment")] == [sent.ref]
        board = client.leaderboard("tiny-sentiment")
        assert board.loc[0, ["rank", "team", "score"]].tolist() == [1, "ada", 0.9]

    def test_private_score_after_the_end(self, site, client, submission):
        site.competitions["tiny-sentiment"].ended = True
        assert client.wait_for_score(client.submit("tiny-sentiment", submission).ref).private_score == 1.0

    def test_with_a_token(self, site, environment, submission):
        environment.setenv("KAGGLE_API_TOKEN", TOKEN)
        assert KaggleClient().submit("tiny-sentiment", submission).ref and site.count("IntrospectToken") == 1


class TestNothingBeforeTheFirstCall:
    def test_making_a_client_needs_no_credentials_and_no_import(self, environment):
        code = ("import sys; from mlx_bert_training.kaggle.client import KaggleClient; c = KaggleClient(); "
                "print(c); assert 'kaggle' not in sys.modules and 'requests' not in sys.modules")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "not connected" in done.stdout

    def test_no_credentials_is_an_error_with_advice_and_no_exit(self, environment, capfd, site):
        code = textwrap.dedent("""
            from mlx_bert_training.kaggle.client import KaggleClient
            from mlx_bert_training.kaggle.connection import KaggleCredentialsError
            try: KaggleClient().submissions("tiny-sentiment")
            except KaggleCredentialsError as error: print(error)
            print("still here")""")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.endswith("still here\n") and done.stderr == ""
        assert "KAGGLE_API_TOKEN: nothing" in done.stdout and "settings/api" in done.stdout
        assert "Authentication required" not in done.stdout and site.requests == []

    def test_importing_with_a_token_asks_nobody(self, environment, site):
        environment.setenv("KAGGLE_API_TOKEN", TOKEN)
        code = ("from mlx_bert_training.kaggle.connection import import_client; import_client(); import os, kaggle; "
                "assert os.environ['KAGGLE_API_TOKEN'] == 'KGAT_ada_token' and not kaggle.api.config_values")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and site.requests == []

    def test_the_places(self, environment, tmp_path):
        assert not any(credential_places().values())
        (tmp_path / "home/kaggle.json").write_text("{}")
        assert [p for p, there in credential_places().items() if there] == [str(tmp_path / "home/kaggle.json")]
        assert "kaggle.json: there" in str(no_credentials())

    def test_the_users_own_kaggle_api_is_signed_in_afterwards(self, client):
        client.submissions("tiny-sentiment")
        assert sys.modules["kaggle"].api.config_values["key"] == KEY


class TestCredentials:
    def test_a_bad_token_hides_a_good_key(self, client, environment):
        environment.setenv("KAGGLE_API_TOKEN", "KGAT_wrong")
        with pytest.raises(KaggleCredentialsError, match="the access token from KAGGLE_API_TOKEN, which hides") as e:
            client.submissions("tiny-sentiment")
        assert "KGAT_wrong" not in str(e.value)

    def test_a_wrong_key(self, client, environment):
        environment.setenv("KAGGLE_KEY", "not-the-right-key")
        with pytest.raises(KaggleCredentialsError, match="refuses the credentials"):
            client.submissions("tiny-sentiment")

    def test_a_silent_network_while_signing_in(self, site, environment):
        environment.setenv("KAGGLE_API_TOKEN", TOKEN)
        site.faults = [{"match": "IntrospectToken", "silent": 3, "times": 9}]
        silent = KaggleClient(timeout=0.2, policy=RetryPolicy(backoff=0.01))
        with pytest.raises(KaggleUnavailableError, match="no answer from Kaggle"): silent.submissions("tiny-sentiment")
        assert site.count("IntrospectToken") == 2

    @pytest.mark.parametrize("fault", [
        {"match": "ListSubmissions", "status": 500, "times": 9, "message": f"seen: Authorization: Basic {BASIC} {KEY}"},
        {"match": "ListSubmissions", "status": 401, "message": f"bad key {KEY}"},
        {"match": "ListSubmissions", "drop": True, "times": 9}])
    def test_no_credential_is_ever_shown(self, site, environment, fault, submission):
        "In a fresh process, with the client's own verbose mode on, and all logging, tracebacks and reprs printed."
        for name, value in {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": KEY, "VERBOSE": "true"}.items():
            environment.setenv(name, value)
        site.faults = [fault]
        code = textwrap.dedent(f"""
            import logging, sys, traceback, pickle
            logging.basicConfig(level=logging.DEBUG)
            from mlx_bert_training.kaggle.client import KaggleClient
            from mlx_bert_training.kaggle.connection import RetryPolicy, KaggleError
            client = KaggleClient(policy=RetryPolicy(attempts=2, backoff=0.01))
            try: client.submissions("tiny-sentiment")
            except KaggleError:
                kind, error, trace = sys.exc_info()
                print("".join(traceback.TracebackException(kind, error, trace, capture_locals=True).format()))
                print(repr(error), vars(error), error.__cause__, error.__context__)
            else: raise SystemExit("the fault did not bite")
            print(client, vars(client), vars(client.connection))
            print(client.submit("tiny-sentiment", {str(submission)!r}))
            try: print(pickle.dumps(client))
            except Exception as error: print(error)""")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for shown in (done.stdout, done.stderr):
            assert not any(secret in shown for secret in (KEY, BASIC)), shown
        assert "tiny-sentiment" in done.stdout and "DEBUG" in done.stderr

    def test_secrets(self):
        secrets = Secrets([KEY, "", "abc"], "ada")
        assert secrets.redact(f"{KEY} {BASIC} Authorization: Bearer xyz123 KGAT_other u?sig={LINK}&b=abc") == (
            "*** *** Authorization: Bearer *** *** u?sig=***&b=abc")
        assert KEY not in repr(secrets)
        with pytest.raises(TypeError): pickle.dumps(secrets)


class TestRetries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_a_passing_fault_is_waited_out(self, site, client, status, caplog):
        site.faults = [{"match": "ListSubmissions", "status": status, "times": 2}]
        with caplog.at_level(logging.WARNING): assert client.submissions("tiny-sentiment") == []
        assert site.count("ListSubmissions") == 3 and len(caplog.records) == 2

    def test_a_dropped_connection_is_tried_again(self, site, client):
        site.faults = [{"match": "ListSubmissions", "drop": True}]
        assert client.submissions("tiny-sentiment") == []

    def test_a_lasting_fault_is_an_error(self, site, client):
        site.faults = [{"match": "ListSubmissions", "status": 503, "times": 99}]
        with pytest.raises(KaggleUnavailableError, match="submissions to tiny-sentiment: Kaggle answered 503") as e:
            client.submissions("tiny-sentiment")
        assert e.value.status == 503 and site.count("ListSubmissions") == 3

    def test_retry_after_is_kept_and_a_long_one_is_told(self, site, client):
        site.faults = [{"match": "ListSubmissions", "status": 429, "retry_after": 0.3}]
        start = time.monotonic()
        client.submissions("tiny-sentiment")
        assert time.monotonic() - start >= 0.3
        site.faults = [{"match": "ListSubmissions", "status": 429, "retry_after": 3600}]
        with pytest.raises(KaggleUnavailableError, match="asks to wait 3600 s"): client.submissions("tiny-sentiment")

    def test_what_cannot_succeed_is_not_repeated(self, site, client):
        with pytest.raises(KaggleNotFoundError): client.submissions("no-such")
        assert site.count("ListSubmissions") == 1

    def test_pauses_double_up_to_a_limit(self):
        policy = RetryPolicy(backoff=1, longest=5)
        assert all(0.75 * want <= policy.pause(i) <= want for i, want in enumerate([1, 2, 4, 5, 5]))


class TestSubmit:
    def test_500_that_counted_is_found_and_not_sent_again(self, site, client, submission):
        site.faults = [{"match": "CreateSubmission", "status": 500, "after": True}]
        sent = client.submit("tiny-sentiment", submission, "m")
        assert sent.ref == site.submissions[0]["ref"] and len(site.submissions) == site.count("CreateSubmission") == 1

    def test_500_that_did_not_count_is_sent_again(self, site, client, submission):
        site.faults = [{"match": "CreateSubmission", "status": 500}]
        sent = client.submit("tiny-sentiment", submission, "m")
        assert sent.ref and len(site.submissions) == 1 and site.count("CreateSubmission") == 2
        assert site.count("ListSubmissions") == 3      # looked for, with patience, in between

    @pytest.mark.parametrize("fault", ["drop", "garbage"])
    def test_an_answer_that_is_lost_is_looked_up(self, site, client, submission, fault):
        site.faults = [{"match": "CreateSubmission", fault: True, "after": True}]
        assert client.submit("tiny-sentiment", submission).ref == site.submissions[0]["ref"]
        assert len(site.submissions) == 1

    def test_an_earlier_submission_of_the_same_file_is_not_mistaken_for_it(self, site, client, submission):
        first = client.submit("tiny-sentiment", submission, "same")
        site.faults = [{"match": "CreateSubmission", "status": 502}]
        assert client.submit("tiny-sentiment", submission, "same").ref != first.ref and len(site.submissions) == 2

    def test_when_nobody_knows_it_says_what_to_look_for(self, site, client, submission):
        site.faults = [{"match": "CreateSubmission", "status": 500, "after": True},
                       {"match": "ListSubmissions", "status": 500, "times": 99}]
        with pytest.raises(KaggleSubmitError, match=r"may have counted. Look for \[20.*/tiny-sentiment/submissions"):
            client.submit("tiny-sentiment", submission)
        assert site.count("CreateSubmission") == 1

    @pytest.mark.parametrize("match", ["CreateSubmission", "StartSubmissionUpload"])
    def test_429_is_waited_out(self, site, client, submission, match):
        site.faults = [{"match": match, "status": 429, "retry_after": 0.05, "times": 2}]
        assert client.submit("tiny-sentiment", submission).ref and len(site.submissions) == 1
        assert site.count("ListSubmissions") == 0

    @pytest.mark.parametrize(("status", "why"), [(503, "it broke 3 x, at last with: answer 503"), (403, "ref=0")])
    def test_an_upload_that_fails_is_not_a_submission(self, site, client, submission, status, why):
        site.faults = [{"match": "PUT upload", "status": status, "times": 99}]
        with pytest.raises(KaggleSubmitError, match=f"was not submitted to tiny-sentiment: .*{why}"):
            client.submit("tiny-sentiment", submission)
        assert site.submissions == [] and site.count("PUT upload") == 3

    def test_an_upload_that_is_cut_goes_on_where_it_was(self, site, client, submission):
        site.faults = [{"match": "PUT upload", "cut": 40}]
        assert client.submit("tiny-sentiment", submission).ref
        assert site.submissions[0]["content"] == submission.read_bytes() and site.count("PUT upload") == 3

    def test_an_upload_that_is_cut_each_time_ends_and_submits_nothing(self, site, client, submission, caplog):
        caplog.set_level("INFO")
        site.faults = [{"match": "PUT upload", "cut": 0, "times": 99}]
        with pytest.raises(KaggleSubmitError, match="was not submitted.*it broke 3 x"):
            client.submit("tiny-sentiment", submission)
        assert site.submissions == [] and "try 2 of 3" in caplog.text

    def test_an_upload_that_fails_once_is_repeated(self, site, client, submission):
        site.faults = [{"match": "PUT upload", "status": 503}]
        assert client.submit("tiny-sentiment", submission).ref and len(site.submissions) == 1

    def test_an_upload_into_silence_ends_and_submits_nothing(self, site, environment, submission):
        environment.setenv("KAGGLE_USERNAME", "ada")
        environment.setenv("KAGGLE_KEY", KEY)
        site.faults = [{"match": "PUT upload", "silent": 2.5, "times": 9}]
        quick = KaggleClient(timeout=0.1, policy=RetryPolicy(attempts=1))
        with pytest.raises(KaggleSubmitError, match="it broke 1 x.*ReadTimeout"):
            quick.submit("tiny-sentiment", submission)
        assert site.submissions == []

    def test_the_daily_limit(self, site, client, submission):
        site.competitions["tiny-sentiment"].max_daily = 1
        client.submit("tiny-sentiment", submission)
        with pytest.raises(KaggleLimitError, match=r"is left today \(1 sent\); the day ends at 00:00 UTC.*allowance"):
            client.submit("tiny-sentiment", submission)
        assert site.count("CreateSubmission") == 2

    def test_another_refusal_is_passed_on(self, site, client, submission):
        site.faults = [{"match": "StartSubmissionUpload", "status": 400, "message": "only accepts Notebooks"}]
        with pytest.raises(KaggleError, match="only accepts Notebooks"): client.submit("tiny-sentiment", submission)

    def test_rules_and_slug(self, site, client, submission):
        site.competitions["tiny-sentiment"].entrants.clear()
        with pytest.raises(KaggleRulesError, match="competitions/tiny-sentiment/rules, accept them"):
            client.submit("tiny-sentiment", submission)
        with pytest.raises(KaggleNotFoundError, match="Did you mean 'tiny-sentiment'"):
            client.submit("tiny-sentimant", submission)
        with pytest.raises(KaggleNotFoundError, match="perhaps 'tiny-sentiment'"):
            client.submit("Tiny Sentiment", submission)

    def test_a_missing_or_empty_file_needs_no_network(self, tmp_path, environment):
        (tmp_path / "empty.csv").touch()
        for name in ("none.csv", "empty.csv"):
            with pytest.raises(KaggleSubmitError, match=name): KaggleClient().submit("tiny-sentiment", tmp_path / name)

    def test_a_refused_file_and_a_slow_score(self, site, client, tmp_path, submission):
        (tmp_path / "bad.csv").write_text("id,wrong\n1,2\n")
        with pytest.raises(KaggleSubmitError, match="refused by the scoring: Submission must have columns") as e:
            client.wait_for_score(client.submit("tiny-sentiment", tmp_path / "bad.csv").ref)
        assert e.value.submission and e.value.submission.status == "error"
        site.competitions["tiny-sentiment"].delay = 0.4
        sent = client.submit("tiny-sentiment", submission)
        with pytest.raises(KaggleSubmitError, match=f"wait_for_score\\({sent.ref}\\)") as e:
            client.wait_for_score(sent.ref, timeout=0.1, poll=0.05)
        assert e.value.submission and e.value.submission.status == "pending"
        assert client.wait_for_score(sent.ref, timeout=5, poll=0.1).status == "complete"

    def test_a_long_message_keeps_its_tag(self, site, client, submission):
        sent = client.submit("tiny-sentiment", submission, "m" * 1000)
        assert sent.description.endswith("]") and len(sent.description) < 500


class TestDownload:
    def test_not_again_when_complete_and_unchanged(self, site, client, tmp_path):
        client.download("tiny-sentiment", tmp_path / "d")
        client.download("tiny-sentiment", tmp_path / "d")
        assert site.count("DownloadDataFiles") == 1
        site.competitions["tiny-sentiment"].files["test.csv"] += b"30,word\n"
        client.download("tiny-sentiment", tmp_path / "d")
        assert site.count("DownloadDataFiles") == 2 and (tmp_path / "d/test.csv").read_bytes().endswith(b"30,word\n")
        (tmp_path / "d/train.csv").unlink()
        client.download("tiny-sentiment", tmp_path / "d")
        assert (tmp_path / "d/train.csv").is_file()
        client.download("tiny-sentiment", tmp_path / "d", force=True)
        assert site.count("DownloadDataFiles") == 4

    def test_a_download_that_breaks_again_and_again_ends_and_goes_on_later(self, site, client, tmp_path, caplog):
        "Each answer is cut after 300 kB of 30 MB: less than a twentieth, so each break counts."
        caplog.set_level("INFO")
        site.competitions["tiny-sentiment"].files["big.csv"] = random_bytes(30_000_000)
        site.faults = [{"match": "GET blob", "cut": 300_000, "times": 99}]
        with pytest.raises(KaggleTransferError, match="after 0.8 of 30.0 MB, because it broke 3 x.*is kept in "):
            client.download("tiny-sentiment", tmp_path / "d")
        assert site.count("GET blob") == 3 and "broken after 0.3 of 30.0 MB" in caplog.text
        with pytest.raises(KaggleTransferError, match="given up after 1.6 of 30.0 MB"):
            client.download("tiny-sentiment", tmp_path / "d")
        site.faults = []
        folder = client.download("tiny-sentiment", tmp_path / "d")
        assert (folder / "big.csv").stat().st_size == 30_000_000 and int(site.ranges[-1][6:-1]) > 1_500_000
        assert not list(folder.glob(".kaggle-partial*"))

    def test_a_download_that_takes_too_long_ends(self, site, environment, tmp_path):
        environment.setenv("KAGGLE_USERNAME", "ada")
        environment.setenv("KAGGLE_KEY", KEY)
        site.competitions["tiny-sentiment"].files["big.csv"] = random_bytes(3_000_000)
        short = KaggleClient(timeout=10, limits=TransferLimits(seconds=0, slowest=1e12))
        with pytest.raises(KaggleTransferError, match="have passed.*goes on from there"):
            short.download("tiny-sentiment", tmp_path / "d")

    def test_a_cut_download_is_resumed(self, site, client, tmp_path):
        big = site.competitions["tiny-sentiment"].files["big.csv"] = random_bytes(3_000_000)
        site.faults = [{"match": "GET blob", "cut": 2_000_000}]
        client.download("tiny-sentiment", tmp_path / "d")
        assert site.ranges == ["bytes=1835008-"]       # whole quarters of a mebibyte are kept
        assert (tmp_path / "d/big.csv").read_bytes() == big

    def test_a_killed_download_is_resumed_by_the_next_process(self, site, client, tmp_path):
        big = site.competitions["tiny-sentiment"].files["big.csv"] = random_bytes(3_000_000)
        site.faults = [{"match": "GET blob", "cut": 2_000_000, "times": 9}]
        code = ("from mlx_bert_training.kaggle.client import KaggleClient; "
                f"KaggleClient().download('tiny-sentiment', {str(tmp_path / 'd')!r})")
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial = tmp_path / "d/.download/tiny-sentiment.zip"
        while process.poll() is None:
            if partial.is_file() and partial.stat().st_size > 1_800_000: break
            time.sleep(0.05)
        process.kill()
        process.wait()
        site.faults = []
        with pytest.raises(KaggleNotFoundError, match="downloading is switched off"):
            find_competition_files("tiny-sentiment", tmp_path / "d", download=False, input_root=tmp_path)
        client.download("tiny-sentiment", tmp_path / "d")
        assert site.ranges == ["bytes=1835008-"] and (tmp_path / "d/big.csv").read_bytes() == big

    def test_a_site_that_is_down_for_a_moment(self, site, client, tmp_path):
        site.faults = [{"match": "DownloadDataFiles", "status": 503}, {"match": "ListDataFiles", "status": 429}]
        assert (client.download("tiny-sentiment", tmp_path / "d") / "train.csv").is_file()

    def test_rules_and_slug(self, site, client, tmp_path):
        with pytest.raises(KaggleNotFoundError, match="Did you mean 'tiny-sentiment'"):
            client.download("tiny-sentimnt", tmp_path / "d")
        site.competitions["tiny-sentiment"].entrants.clear()
        with pytest.raises(KaggleRulesError, match="accept them"): client.download("tiny-sentiment", tmp_path / "d")

    def test_many_files_come_in_pages(self, site, client, tmp_path):
        site.competitions["tiny-sentiment"].files |= {f"part{i:03}.csv": b"a\n1\n" for i in range(450)}
        client.download("tiny-sentiment", tmp_path / "d")
        record = json.loads((tmp_path / "d/.kaggle-files.json").read_text())
        assert len(record["listing"]) == 453 and site.count("ListDataFiles") == 3

    def test_what_is_not_a_zip(self, site, client, tmp_path):
        site.competitions["tiny-sentiment"].archive = b"<html>sorry</html>"
        with pytest.raises(KaggleArchiveError, match="no zip file"): client.download("tiny-sentiment", tmp_path / "d")
        assert list((tmp_path / "d").iterdir()) == []

    @pytest.mark.parametrize("member", ["../escaped.csv", "/tmp/escaped.csv", "a/../../escaped.csv", "..\\escaped.csv"])
    def test_zip_slip(self, site, client, tmp_path, member):
        site.competitions["tiny-sentiment"].archive = packed({"train.csv": b"fine", member: b"evil"})
        with pytest.raises(KaggleArchiveError, match="outside the folder"):
            client.download("tiny-sentiment", tmp_path / "d")
        assert not list(tmp_path.rglob("escaped.csv")) and not (tmp_path / "d/train.csv").exists()

    def test_zip_bomb(self, site, client, tmp_path):
        site.competitions["tiny-sentiment"].archive = packed({"train.csv": bytes(200_000_000)})
        with pytest.raises(KaggleArchiveError, match="refused as a zip bomb"):
            client.download("tiny-sentiment", tmp_path / "d")
        assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 10_000
        with pytest.raises(KaggleArchiveError, match="more than the 1,000 that are allowed"):
            client.download("tiny-sentiment", tmp_path / "d", max_bytes=1000)


def random_bytes(n: int) -> bytes: return np.random.default_rng(0).bytes(n)


def packed(files: dict[str, bytes], **infos) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in infos.items(): setattr(info, key, value)
            zipped.writestr(info, content)
    return buffer.getvalue()


class TestArchive:
    def write(self, tmp_path: Path, content: bytes) -> Path:
        (tmp_path / "a.zip").write_bytes(content)
        return tmp_path / "a.zip"

    def test_folders_inside(self, tmp_path):
        archive = self.write(tmp_path, packed({"a.csv": b"1", "deep/er/b.csv": b"22"}))
        assert extract_zip(archive, tmp_path / "o") == {"a.csv": 1, "deep/er/b.csv": 2}
        assert (tmp_path / "o/deep/er/b.csv").read_bytes() == b"22"

    def test_a_link(self, tmp_path):
        archive = self.write(tmp_path, packed({"a": b"/etc/passwd"}, external_attr=0o120777 << 16, create_system=3))
        with pytest.raises(KaggleArchiveError, match="is a link"): extract_zip(archive, tmp_path / "o")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_name_twice(self, tmp_path):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as zipped:
            for content in (b"1", b"2"): zipped.writestr("a.csv", content)
        with pytest.raises(KaggleArchiveError, match="two members"):
            extract_zip(self.write(tmp_path, buffer.getvalue()), tmp_path / "o")

    def test_a_damaged_member_leaves_the_old_files(self, tmp_path):
        content = bytearray(packed({"a.csv": b"new", "b.csv": os.urandom(3000)}))
        content[1500] ^= 255
        (tmp_path / "o").mkdir()
        (tmp_path / "o/a.csv").write_text("old")
        with pytest.raises(KaggleArchiveError, match="not a sound zip file"):
            extract_zip(self.write(tmp_path, bytes(content)), tmp_path / "o")
        assert [p.name for p in (tmp_path / "o").iterdir()] == ["a.csv"] and (tmp_path / "o/a.csv").read_text() == "old"

    def test_a_size_that_lies(self, tmp_path):
        content = packed({"a.csv": b"x" * 100_000})
        true, lie = (100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
        assert content.count(true) == 2
        with pytest.raises(KaggleArchiveError):
            extract_zip(self.write(tmp_path, content.replace(true, lie)), tmp_path / "o")
        assert not list((tmp_path / "o").iterdir())


class TestFind:
    def test_order_of_places(self, site, client, tmp_path):
        folder, root = tmp_path / "data", tmp_path / "input"
        mounted = root / "tiny-sentiment"

        def look() -> Path:
            return find_competition_files("tiny-sentiment", folder, client, files=["train.csv"], input_root=root)

        assert look() == folder and site.count("DownloadDataFiles") == 1
        (folder / "train.csv").rename(tmp_path / "train.csv")
        mounted.mkdir(parents=True)
        (tmp_path / "train.csv").rename(mounted / "train.csv")
        assert look() == mounted and site.count("DownloadDataFiles") == 1
        (folder / "train.csv").write_text("mine")
        assert look() == folder and (folder / "train.csv").read_text() == "mine"

    def test_a_file_that_the_competition_lacks(self, client, tmp_path):
        with pytest.raises(KaggleNotFoundError, match="has no file 'training.csv'. Did you mean 'train.csv'"):
            find_competition_files("tiny-sentiment", tmp_path / "d", client, files=["training.csv"],
                                   input_root=tmp_path)

    def test_names(self):
        assert competition_slug(" https://www.kaggle.com/c/titanic?x=1 ") == "titanic"
        for bad in ("", "../titanic", "a b", "Titanic"):
            with pytest.raises(KaggleNotFoundError): competition_slug(bad)
