import openai
import pytest

from tests.app.service import MAX_CORPUS_BYTES, Service, error_of

TEXT = b"the quick brown fox\n" * 20


def test_file_is_a_corpus_with_a_name_and_a_purpose(service: Service, sdk: openai.OpenAI) -> None:
    file = sdk.files.create(file=("ünique fox.txt", TEXT), purpose="fine-tune")
    assert (file.object, file.bytes, file.status) == ("file", len(TEXT), "processed")
    assert (file.filename, file.purpose) == ("ünique fox.txt", "fine-tune")
    assert service.corpora.get(file.id).characters == len(TEXT)
    assert sdk.files.retrieve(file.id) == file
    assert sdk.files.content(file.id).read() == TEXT
    assert sdk.files.wait_for_processing(file.id) == file
    assert sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(file.id)
    assert service.blobs.paths("openai_files") == [] and service.spooled == []


def test_file_uploaded_again_under_another_name_keeps_its_first(service: Service, sdk: openai.OpenAI) -> None:
    first = sdk.files.create(file=("first.txt", TEXT), purpose="fine-tune")
    again = sdk.files.create(file=("second.txt", TEXT), purpose="evals")
    assert again == first == sdk.files.retrieve(first.id)
    service.http.delete(f"/v1/corpora/{first.id}")
    assert sdk.files.create(file=("third.txt", TEXT), purpose="evals").filename == "third.txt"


def test_json_lines_become_the_text_that_is_trained_on(service: Service, sdk: openai.OpenAI) -> None:
    data = b'{"prompt": "Q: 1", "completion": " A: 2"}\n{"text": "more"}\n' * 10
    file = sdk.files.create(file=("examples.JSONL", data), purpose="fine-tune")
    assert sdk.files.content(file.id).text == "Q: 1 A: 2\nmore\n" * 10
    assert sdk.files.create(file=("a.txt", data), purpose="fine-tune").id != file.id


def test_list_has_corpora_of_any_origin_in_the_order_asked_for(service: Service, sdk: openai.OpenAI) -> None:
    service.upload("uploaded in our own way\n")
    files = [
        sdk.files.create(file=(f"{i}.txt", TEXT * (i + 1)), purpose=purpose)  # type: ignore[arg-type]
        for i, purpose in enumerate(("fine-tune", "evals", "fine-tune"))
    ]
    everything = list(sdk.files.list())
    assert {file.id for file in files} < {file.id for file in everything} and len(everything) == 4
    assert [file.id for file in sdk.files.list(purpose="evals")] == [files[1].id]
    assert list(sdk.files.list(order="asc")) == everything[::-1]
    assert list(sdk.files.list(limit=1)) == everything  # page by page
    assert any(file.filename.startswith("corpus_") for file in everything)


def test_files_may_be_as_large_as_corpora(service: Service) -> None:
    purpose = {"purpose": "fine-tune"}
    large = {"file": ("a.txt", b"x" * (MAX_CORPUS_BYTES + 1))}
    error = error_of(service.http.post("/v1/files", files=large, data=purpose), 413)
    assert error["code"] == "corpus_too_large"
    fits = {"file": ("a.txt", b"abc\n" * (MAX_CORPUS_BYTES // 4))}
    assert service.http.post("/v1/files", files=fits, data=purpose).json()["bytes"] == MAX_CORPUS_BYTES


def test_file_that_a_job_needs_stays_and_the_sdk_does_not_ask_again(
    service: Service, sdk: openai.OpenAI
) -> None:
    file = sdk.files.create(file=("a.txt", TEXT), purpose="fine-tune")
    sdk.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    with pytest.raises(openai.ConflictError) as refused:
        sdk.files.delete(file.id)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert sdk.files.retrieve(file.id) == file
