"""The public client libraries work unmodified with gomodel as their base URL. Each is optional here."""

import pytest

from .processes import MASTER_KEY, Server
from .questions import CALLER, MESSAGES, PROMPT, QUESTIONS, SELECTOR
from .wire import cut_events, post

TOKENS = 24


@pytest.fixture
def text(gateway: Server) -> str:
    """What the model says to MESSAGES."""
    question = QUESTIONS["chat"]
    answer = post(gateway, question.path, question.body(SELECTOR, TOKENS, stream=True), CALLER)
    return question.text(cut_events(answer.body))


def test_openai_lists_models_and_chats(gateway: Server, text: str) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=MASTER_KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [SELECTOR]
        assert client.models.retrieve(SELECTOR).id == SELECTOR
        asked = {"model": SELECTOR, "max_tokens": TOKENS, "extra_body": {"ignore_eos": True}, "temperature": 0}
        whole = client.chat.completions.create(messages=MESSAGES, **asked)
        assert whole.choices[0].message.content == text
        with client.chat.completions.create(messages=MESSAGES, stream=True, **asked) as stream:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
        assert client.completions.create(prompt=PROMPT, **asked).usage.completion_tokens == TOKENS


@pytest.mark.asks("/v1/responses")
def test_openai_streams_typed_response_events(gateway: Server) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=MASTER_KEY, max_retries=0) as client:
        asked = {"model": SELECTOR, "input": PROMPT, "max_output_tokens": TOKENS, "temperature": 0}
        with client.responses.create(stream=True, **asked) as stream:
            events = list(stream)
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == events[-1].response.output_text == client.responses.retrieve(events[0].response.id).output_text


def test_openai_raises_what_vllm_and_gomodel_answered(gateway: Server) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=MASTER_KEY, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="`nobody`"):
            client.chat.completions.create(model="vllm/nobody", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(model=SELECTOR, messages=MESSAGES, temperature=9)
        with pytest.raises(openai.AuthenticationError) as refused:
            client.with_options(api_key="wrong").models.list()
        assert refused.value.code == "invalid_api_key"


@pytest.mark.asks("/v1/messages")
def test_anthropic_streams_with_its_own_key_header(gateway: Server) -> None:
    anthropic = pytest.importorskip("anthropic")
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=MASTER_KEY, max_retries=0) as client,
        client.messages.stream(model=SELECTOR, max_tokens=TOKENS, messages=MESSAGES) as stream,
    ):
        text = "".join(stream.text_stream)
        assert text == stream.get_final_message().content[0].text != ""


@pytest.mark.asks("/v1/messages")
def test_anthropic_raises_what_vllm_and_gomodel_answered(gateway: Server) -> None:
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=gateway.url, api_key=MASTER_KEY, max_retries=0) as client:
        with pytest.raises(anthropic.NotFoundError, match="`nobody`"):
            client.messages.create(model="vllm/nobody", max_tokens=2, messages=MESSAGES)
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            client.with_options(api_key="wrong").messages.create(model=SELECTOR, max_tokens=2, messages=MESSAGES)
