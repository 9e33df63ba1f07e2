"""Ask a server of jaxgen for texts, for labels and for translations, of whatever it serves.

    jaxgen train configs/demo.toml --out runs/demo
    jaxgen train configs/sentiment_demo.toml --out runs/sentiment
    jaxgen serve runs/demo runs/sentiment &
    python examples/serve.py http://127.0.0.1:8000

Only the standard library is used, to show what is sent; docs/serve.md has OpenAI's client.
"""

import json
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

PROMPT, REVIEW, SOURCE = "The ", "a good film", "the 3rd of March, 2003"


class Server:
    """A server by its address; `key` is what it was started with as --api-key-file, if it was."""

    def __init__(self, address, key=None):
        self.address = address
        self.headers = {"Content-Type": "application/json"}
        if key is not None:
            self.headers["Authorization"] = f"Bearer {key}"

    def open(self, path, body=None):
        """The answer as a file; what is wrong with a request is said in its `detail`."""
        data = None if body is None else json.dumps(body).encode()
        try:
            return urlopen(Request(self.address + path, data, self.headers), timeout=60)
        except HTTPError as error:
            with error:
                sys.exit(f"{error.code}: {json.load(error)['detail']}")

    def ask(self, path, body=None):
        """The answer as JSON."""
        with self.open(path, body) as answer:
            return json.load(answer)

    def complete(self, **fields):
        """The texts of a completion."""
        found = self.ask("/v1/completions", fields)
        return [choice["text"] for choice in found["choices"]]

    def stream(self, **fields):
        """The pieces of one text as they are made."""
        with self.open("/v1/completions", {**fields, "stream": True}) as answer:
            for line in answer:
                data = line.decode().removeprefix("data: ").strip()
                if data and data != "[DONE]":
                    event = json.loads(data)
                    if "error" in event:
                        sys.exit(event["error"]["message"])
                    yield from (choice["text"] for choice in event["choices"])


def write(server, model, max_tokens):
    """Texts of a model that writes: streamed, ranked, and four that go on from one reading."""
    common = {"model": model, "max_tokens": max_tokens}
    print(f"{model}, as it is written:\n{PROMPT}", end="")
    streamed = ""
    for piece in server.stream(prompt=PROMPT, seed=1, **common):
        print(piece, end="", flush=True)
        streamed += piece
    [best] = server.complete(prompt=PROMPT, seed=1, best_of=8, **common)
    print(f"\n\nthe likeliest of eight:\n{PROMPT}{best}")
    # The handle holds the model's state; any server with the same session key goes on from it.
    session = server.ask("/v1/sessions", {"model": model, "prompt": PROMPT})["session"]
    print(f"\nfour that go on from a handle of {len(session):,} characters:")
    texts = {}
    for temperature in (0.2, 0.5, 0.8, 1.1):
        fields = {"session": session, "seed": 1, "temperature": temperature, **common}
        [texts[temperature]] = server.complete(**fields)
        print(f"--- temperature {temperature:g}\n{PROMPT}{texts[temperature]}")
    return streamed, best, texts


def main(address, key=None, max_tokens=60):
    """Print and return what each model says, by its name."""
    server, said = Server(address, key), {}
    for name, endpoint in ((m["id"], m["endpoint"]) for m in server.ask("/v1/models")["data"]):
        if endpoint == "POST /v1/completions":
            said[name] = write(server, name, max_tokens)
        elif endpoint == "POST /v1/classify":
            asked = {"model": name, "input": REVIEW, "explain": True}
            [found] = server.ask("/v1/classify", asked)["data"]
            best = max(found["explanation"]["words"], key=lambda word: word["weight"])
            said[name] = found["label"], best["word"]
            print(f"\n{name} of `{REVIEW}`: {found['label']}, most of all for `{best['word']}`")
        elif endpoint == "POST /v1/translate":
            [found] = server.ask("/v1/translate", {"model": name, "input": SOURCE})["data"]
            said[name] = found["text"]
            print(f"\n{name} of `{SOURCE}`: {found['text']}")
    return said


if __name__ == "__main__":
    main(*sys.argv[1:] or ["http://127.0.0.1:8000"])
