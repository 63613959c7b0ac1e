"""A server answers only to its own names, so that a page elsewhere can't read from it."""

import http.client
import socket
from collections.abc import Iterator

import pytest
import requests
from conftest import Study
from test_serve import PNG, Server, serving

from pipeline.errors import InputError
from pipeline.serving.hosts import is_known, known_hosts


@pytest.fixture(scope="module")
def server(study: Study) -> Iterator[Server]:
    model = ("--model", "models:/synthetic-cnn@bn")
    with serving(study.folder, *model, "--allowed-hosts", "classify.example.org,*.lan") as server:
        yield server


def ask(server: Server, method: str, path: str, host: str) -> requests.Response:
    address, headers = server.address + path, {"Host": host, "Content-Type": "image/png"}
    return requests.request(method, address, headers=headers, data=PNG, timeout=60)


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1:1", "[::1]:8000", "LocalHost:80", "classify.example.org", "box.lan:9"],
)
def test_its_own_names_and_those_it_is_given_are_answered(server: Server, host: str) -> None:
    assert ask(server, "POST", "/predict", host).status_code == 200
    assert ask(server, "GET", "/version", host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", "8.8.8.8"],
)
@pytest.mark.parametrize("path", ["/", "/predict", "/view", "/version", "/docs", "/openapi.json"])
def test_a_foreign_name_is_refused_in_one_line(server: Server, path: str, host: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = ask(server, method, path, host)
        assert answer.status_code == 403
        assert list(answer.json()) == ["error"]
        assert f"{host!r} is not known as a name of this server" in answer.json()["error"]
        assert "--allowed-hosts" in answer.json()["error"]


def test_a_load_balancer_may_ask_by_any_name_whether_it_is_up(server: Server) -> None:
    assert ask(server, "GET", "/health", "10.evil.example").json() == {"status": "ok"}
    assert ask(server, "HEAD", "/health", "evil.example").status_code == 200


def test_a_request_without_a_name_is_refused(server: Server) -> None:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    connection.putrequest("GET", "/version", skip_host=True)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"send a Host header" in answer.read()


def test_a_page_from_elsewhere_can_not_read_an_answer(server: Server) -> None:
    headers = {"Origin": "http://evil.example", "Content-Type": "image/png"}
    answer = requests.post(f"{server.address}/predict", PNG, headers=headers, timeout=60)
    allowed = [name for name in answer.headers if name.lower().startswith("access-control")]
    assert allowed == []  # without one, browsers keep the answer from the page


@pytest.mark.parametrize("listening", ["127.0.0.1", "::1", "0.0.0.0", "gpu-box", "203.0.113.7"])
def test_whatever_it_listens_on_is_one_of_its_names(listening: str) -> None:
    own = f"[{listening}]" if ":" in listening else listening
    known = known_hosts("", listening)
    for name in (own, "localhost", socket.gethostname(), "192.168.1.2", "[fd00::1]", "172.31.0.1"):
        assert is_known(name, known)
        assert is_known(f"{name.upper()}:8000", known)
    for name in ("evil.example", "10.evil.example", "192.168.evil.example", "172.32.0.1", ""):
        assert not is_known(name, known)
        assert not is_known(f"{name}:8000", known)


def test_a_star_allows_any_name() -> None:
    assert is_known("evil.example:1", known_hosts("*", "127.0.0.1"))
    assert is_known("[2001:db8::7]:80", known_hosts("[2001:db8::*]", "127.0.0.1"))
    assert not is_known("[2001:db9::7]:80", known_hosts("[2001:db8::*]", "127.0.0.1"))


@pytest.mark.parametrize("name", ["b.org;c.org", "b org", "münchen.de", ".", "..", "b..org", "?"])
def test_what_no_client_sends_as_a_name_is_refused(name: str) -> None:
    with pytest.raises(InputError) as refused:
        known_hosts(f"a.org,{name}", "127.0.0.1")
    assert f"allowed_hosts has {name!r}; it must be host names such as" in str(refused.value)
    assert "xn--mnchen-3ya.de for münchen.de" in str(refused.value)


@pytest.mark.parametrize("name", ["a.org", "A.org.", "*.a.org:*", "my_box-1:80", "[2001:db8::*]:1"])
def test_a_name_is_taken_however_it_is_written(name: str) -> None:
    known = known_hosts(f" {name} ,xn--mnchen-3ya.de", "fe80::1%eth0")
    asked = name.replace(":*", ":8000").replace("*", "7")
    assert is_known(asked, known)
    assert is_known(asked.upper(), known)
    assert is_known("XN--mnchen-3ya.de.:80", known)
    assert not is_known("", known)
    assert not is_known("", known_hosts("a.org, ,", "127.0.0.1"))
