//! The same site in each proxy's own words: one worker, three replicas in turns over kept connections, failures tried at
//! another one, replicas that fail left alone for a while, no access log.

use std::fs;

use anyhow::Result;

use super::Site;

pub(super) fn gateway(site: &Site<'_>) -> Result<Vec<String>> {
    let replicas: Vec<_> = site.replicas.iter().map(|replica| format!("\"{replica}\"")).collect();
    let path = site.directory.join("services.toml");
    fs::write(&path, format!("[[service]]\nname = \"bench\"\nreplicas = [{}]\n", replicas.join(", ")))?;
    Ok(strings(&[
        "--static",
        &path.display().to_string(),
        "--listen",
        &site.http1.to_string(),
        "--admin-listen",
        &site.admin.to_string(),
        "--workers",
        "1",
    ]))
}

pub(super) fn nginx(site: &Site<'_>) -> Result<Vec<String>> {
    let servers: String = site
        .replicas
        .iter()
        .map(|replica| format!("        server {replica} max_fails=5 fail_timeout=10s;\n"))
        .collect();
    let (http1, http2, home) = (site.http1, site.http2, site.directory.display());
    let text = format!(
        "daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {home}/pid;
error_log {home}/error.log crit;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    upstream bench {{
{servers}        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen {http1} backlog=4096;
        listen {http2} http2 backlog=4096;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Request-Id $request_id;
            proxy_next_upstream error timeout http_502 http_503 http_504;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"
    );
    let path = site.directory.join("nginx.conf");
    fs::write(&path, text)?;
    Ok(strings(&["-c", &path.display().to_string(), "-p", &home.to_string()]))
}

pub(super) fn haproxy(site: &Site<'_>) -> Result<Vec<String>> {
    let servers: String = site
        .replicas
        .iter()
        .enumerate()
        .map(|(place, replica)| {
            format!("    server s{place} {replica} check inter 2s observe layer7 error-limit 5 on-error mark-down\n")
        })
        .collect();
    let (http1, http2) = (site.http1, site.http2);
    let text = format!(
        "global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 10s
    option forwardfor
    unique-id-format %[uuid()]
    unique-id-header X-Request-Id
    option redispatch
    retries 2
    retry-on conn-failure empty-response 502 503 504
    http-reuse always
frontend in
    bind {http1} backlog 4096
    bind {http2} proto h2 backlog 4096
    default_backend bench
backend bench
    balance roundrobin
{servers}"
    );
    let path = site.directory.join("haproxy.cfg");
    fs::write(&path, text)?;
    Ok(strings(&["-db", "-f", &path.display().to_string()]))
}

pub(super) fn envoy(site: &Site<'_>) -> Result<Vec<String>> {
    let endpoints: String = site
        .replicas
        .iter()
        .map(|replica| {
            let (host, port) = (replica.ip(), replica.port());
            format!("        - endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }}\n")
        })
        .collect();
    let [http1, admin] = [site.http1, site.admin].map(|address| {
        format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", address.ip(), address.port())
    });
    let text = format!(
        "admin:
  address: {admin}
static_resources:
  listeners:
  - address: {http1}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: AUTO
          stat_prefix: bench
          use_remote_address: true
          route_config:
            virtual_hosts:
            - name: bench
              domains: [\"*\"]
              routes:
              - match: {{ prefix: / }}
                route:
                  cluster: bench
                  timeout: 30s
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset,gateway-error
                    num_retries: 2
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: bench
    type: STATIC
    connect_timeout: 1s
    lb_policy: ROUND_ROBIN
    outlier_detection: {{ consecutive_5xx: 5, interval: 1s, base_ejection_time: 1s, max_ejection_percent: 100 }}
    circuit_breakers:
      thresholds:
      - {{ max_connections: 20000, max_pending_requests: 20000, max_requests: 20000, max_retries: 1000 }}
    load_assignment:
      cluster_name: bench
      endpoints:
      - lb_endpoints:
{endpoints}"
    );
    let path = site.directory.join("envoy.yaml");
    fs::write(&path, text)?;
    Ok(strings(&[
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "error",
        "-c",
        &path.display().to_string(),
    ]))
}

pub(super) fn relay(site: &Site<'_>) -> Result<Vec<String>> {
    Ok(strings(&["--relay", &site.http1.to_string(), &site.replicas[0].to_string()]))
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}
