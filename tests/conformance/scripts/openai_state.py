"""What the store of responses keeps, through openai-python: prints one JSON object."""

import json
import time

import common
import openai

client = openai.OpenAI(base_url=f"{common.URL}/v1", api_key=common.KEY)


def _status(work) -> int:
    try:
        work()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def _state(prompt: str) -> str:
    seen: dict[str, object] = {}
    first = client.responses.create(model=common.MODEL, input=prompt, instructions="Be brief.")
    seen["again"] = client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(model=common.MODEL, input="And now?", previous_response_id=first.id)
    seen["previous"] = second.previous_response_id == first.id
    seen["input_items"] = [item.content[0].text for item in client.responses.input_items.list(second.id)]

    begun = client.responses.create(model=common.MODEL, input="In the background", background=True)
    seen["begun"] = begun.status
    states = [begun.status]
    while states[-1] in ("queued", "in_progress"):
        time.sleep(0.2)
        states.append(client.responses.retrieve(begun.id).status)
    seen["ended"] = states[-1]
    seen["background_text"] = client.responses.retrieve(begun.id).output_text

    stopped = client.responses.create(model=common.MODEL, input="wait for ever", background=True)
    seen["cancelled"] = client.responses.cancel(stopped.id).status
    seen["after_cancel"] = client.responses.retrieve(stopped.id).status

    client.responses.delete(first.id)
    seen["deleted"] = _status(lambda: client.responses.retrieve(first.id))
    seen["unknown"] = _status(lambda: client.responses.retrieve("resp_" + "0" * 32))
    unstored = client.responses.create(model=common.MODEL, input="Forget it", store=False)
    seen["unstored"] = _status(lambda: client.responses.retrieve(unstored.id))
    return json.dumps(seen)


common.main({"state": _state})
