"""Environment variables that Ray and Serve read when they start, on the head and on every worker."""

# Serve's low-latency path: HAProxy hands requests straight to the router, user code runs on the main loop. The
# push intervals let the autoscaling policy see a burst within a second; the buckets lie around usual budgets.
# Ranking twice does no harm, so HAProxy may send a request again when its router died. For that it has to have all of
# it before it sends any, by an option that Serve has no setting for: it goes into the file behind one that has, and
# so does the time after which a client that sends its request too slowly is cut off.
LOW_LATENCY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HAPROXY_RETRY_ON": (
        "conn-failure empty-response\n    option http-buffer-request\n    timeout http-request 30s"
    ),
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "262144",
    "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "5,10,20,35,50,75,100,150,200,350,500,1000,2000,5000",
}
# On one computer: logs go to Ray's files, not to the terminal; usage statistics are sent nowhere; other users of
# the machine may not command the cluster. A busy computer may take longer than Serve's 5 s to start its proxy,
# which Serve kills after three such waits.
LOCAL = {
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}
# Ports Serve opens besides its HTTP port, and their defaults.
SIDE_PORTS = {
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}
