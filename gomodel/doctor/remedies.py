"""What stands at a place, by the header fields it adds, and what to change there for each kind of finding. Pure.

Decides by evidence alone: a place that does not say what it is gets the general remedy.
"""

from .exchange import Exchange

# A field, what its value must begin with, and what adds it. The first that fits.
_SIGNS = (
    ("x-gomodel-provider", "", "gomodel"),
    ("x-litellm-version", "", "LiteLLM"),
    ("x-litellm-call-id", "", "LiteLLM"),
    ("cf-ray", "", "Cloudflare"),
    ("x-amz-cf-id", "", "CloudFront"),
    ("server", "awselb", "AWS load balancer"),
    ("x-kong-upstream-latency", "", "Kong"),
    ("x-envoy-upstream-service-time", "", "Envoy"),
    ("server", "envoy", "Envoy"),
    ("server", "istio-envoy", "Envoy"),
    ("server", "nginx", "nginx"),
    ("server", "openresty", "nginx"),
    ("server", "apache", "Apache httpd"),
    ("server", "caddy", "Caddy"),
    ("via", "1.1 caddy", "Caddy"),
    ("server", "traefik", "Traefik"),
    ("via", "1.1 varnish", "Varnish"),
    ("via", "1.1 google", "Google load balancer"),
)
_UPGRADE_NGINX = (
    'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
)
_REMEDIES = {
    ("buffered", "nginx"): "proxy_buffering off; proxy_http_version 1.1;"
    " (ingress-nginx: nginx.ingress.kubernetes.io/proxy-buffering: off)",
    ("buffered", "Apache httpd"): "ProxyPass ... flushpackets=on, and no mod_deflate for text/event-stream",
    ("buffered", "Cloudflare"): "send Cache-Control: no-cache, no-transform, and switch response buffering off",
    ("buffered", "Caddy"): "flush_interval -1 in reverse_proxy",
    ("buffered", "Envoy"): "take the buffer, gzip and similar filters off this route",
    ("buffered", ""): "switch the buffering of responses off, and any compression of text/event-stream",
    ("compressed", "nginx"): "gzip off; or take text/event-stream out of gzip_types",
    ("compressed", ""): "do not compress text/event-stream",
    ("never_cancels", "nginx"): "proxy_ignore_client_abort off; and proxy_buffering off;",
    ("never_cancels", ""): "it must close its own request as soon as its client leaves, streaming or not",
    ("large", "nginx"): 'client_max_body_size 0; (ingress-nginx: nginx.ingress.kubernetes.io/proxy-body-size: "0")',
    ("large", "Apache httpd"): "LimitRequestBody 0",
    ("large", "Envoy"): "raise max_request_bytes of its buffer filter, or take the filter off",
    ("large", "Traefik"): "raise maxRequestBodyBytes of its buffering middleware",
    ("large", "gomodel"): "raise BODY_SIZE_LIMIT",
    ("large", ""): "raise its limit of a request's body",
    ("chunked", "nginx"): "proxy_http_version 1.1; and no module that wants a Content-Length",
    ("chunked", ""): "let it take bodies with Transfer-Encoding: chunked",
    ("idle", "nginx"): "proxy_read_timeout 3600s; (ingress-nginx: nginx.ingress.kubernetes.io/proxy-read-timeout)",
    ("idle", "Envoy"): "timeout: 0s of the route, and stream_idle_timeout: 0s",
    ("idle", "AWS load balancer"): "idle_timeout.timeout_seconds up to 4000",
    ("idle", "Cloudflare"): "its limit of 100 s holds for all but Enterprise; stream instead",
    ("idle", "gomodel"): "raise HTTP_RESPONSE_HEADER_TIMEOUT",
    ("idle", ""): "raise its limit of a silent answer above the longest prefill and the longest whole answer",
    ("websocket", "nginx"): _UPGRADE_NGINX,
    ("websocket", "Envoy"): "upgrade_configs: [{upgrade_type: websocket}]",
    ("websocket", "Apache httpd"): "ProxyPass ... upgrade=websocket",
    ("websocket", ""): "let the upgrade to WebSocket pass",
    ("dropped_headers", "nginx"): "take out proxy_hide_header, and name the field in proxy_pass_header",
    ("dropped_headers", ""): "let the header fields of responses, and of requests, pass",
    ("error_body", "nginx"): "proxy_intercept_errors off;",
    ("error_status", "nginx"): "proxy_intercept_errors off;",
    ("error_body", ""): "let the engine's refusals pass as they are: clients read their message, type and param",
    ("error_status", ""): "let the engine's status pass: clients decide by it whether they try again",
    ("fields", ""): "let every field of a request pass, also those it does not know, with its value",
    ("body", ""): "let answers pass as they are",
    ("events", ""): "let events pass as they are",
    (
        "last_event",
        "",
    ): "let a stream pass to its very end: clients take a stream without [DONE] for one that broke off",
    ("lost_events", ""): "let every event pass",
    ("cut", ""): "look into its log for a limit of time or size, or a filter, that ends streams",
    ("closed", "nginx"): "keepalive_timeout above 0",
    ("closed", ""): "keep connections of clients: each new one costs a handshake",
    ("extra_bytes", ""): "its framing of bodies is wrong: on a kept connection the next answer is read wrongly",
    ("second_request", ""): "its keep-alive is wrong: clients meet it as random failures",
    ("slow", ""): "look for a new connection, a look-up or a check of another service for each request",
    ("stream_type", ""): "let Content-Type: text/event-stream pass",
    ("status", ""): "its own log says why",
}


def product(exchange: Exchange, before: Exchange) -> str:
    """What stands at a place, by what it adds to what `before` (the place behind it) says; "" where nothing tells."""
    for name, beginning, what in _SIGNS:
        value = exchange.header(name).lower()
        if value and value.startswith(beginning) and before.header(name).lower() != value:
            return what
    return ""


def remedy(kind: str, what: str) -> str:
    """What to change, "" where there is nothing to be changed."""
    return _REMEDIES.get((kind, what)) or _REMEDIES.get((kind, ""), "")
