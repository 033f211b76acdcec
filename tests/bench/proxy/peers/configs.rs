//! The same site in each proxy's own words: one worker, three replicas in turns over kept connections, failures tried at
//! another one, replicas that fail left alone for a while, no access log.

use std::{fmt::Write as _, fs, net::SocketAddr};

use anyhow::Result;

use super::{Site, service_name};

pub(super) fn gateway(site: &Site<'_>) -> Result<Vec<String>> {
    let more = match site.setting.control_plane {
        Some(control_plane) => {
            let cache = site.directory.join("cache").display().to_string();
            strings(&["--control-plane", control_plane, "--node-id", "bench", "--cache-dir", &cache])
        }
        None => strings(&["--static", &services_file(site)?]),
    };
    let told = strings(&[
        "--listen",
        &site.http1.to_string(),
        "--tls-listen",
        &site.tls.to_string(),
        "--tls-certificate",
        &site.certificate.chain.display().to_string(),
        "--tls-key",
        &site.certificate.key.display().to_string(),
        "--admin-listen",
        &site.admin.to_string(),
        "--workers",
        &site.setting.workers.to_string(),
    ]);
    Ok([told, more].concat())
}

/// Writes what the gateway is told by `--static`.
fn services_file(site: &Site<'_>) -> Result<String> {
    let replicas: Vec<_> = site.replicas.iter().map(|replica| format!("\"{replica}\"")).collect();
    let replicas = replicas.join(", ");
    // Thirty thousand checks every few seconds would be measured instead; HAProxy goes without them, too.
    let checks = match site.setting.services {
        1 => "",
        _ => "[service.policy.health_check]\ntype = \"off\"\n",
    };
    let mut text = String::new();
    for place in 0..site.setting.services {
        let name = service_name(place);
        write!(text, "[[service]]\nname = \"{name}\"\nreplicas = [{replicas}]\n{checks}")?;
    }
    text += "[[service]]\nname = \"grpc\"\n";
    for replica in site.grpc_replicas {
        write!(text, "[[service.replica]]\naddress = \"{replica}\"\nprotocol = \"h2c\"\n")?;
    }
    let path = site.directory.join("services.toml");
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

pub(super) fn nginx(site: &Site<'_>) -> Result<Vec<String>> {
    // Room for each is taken at once.
    let kept = (512 / site.setting.services).max(8);
    let upstream = |name: &str, replicas: &[SocketAddr]| {
        let servers: String = replicas
            .iter()
            .map(|replica| format!("        server {replica} max_fails=5 fail_timeout=10s;\n"))
            .collect();
        format!(
            "    upstream {name} {{\n{servers}        keepalive {kept};\n        keepalive_requests 100000000;\n    }}\n"
        )
    };
    let (http1, http2, tls, grpc, home) =
        (site.http1, site.http2, site.tls, site.grpc, site.directory.display());
    let (chain, key) = (site.certificate.chain.display(), site.certificate.key.display());
    let mut servers = String::new();
    for place in 0..site.setting.services {
        let name = service_name(place);
        servers += &upstream(&name, site.replicas);
        let listens = match place {
            // What a socket is told, it is told once.
            0 => format!(
                "listen {http1} backlog=4096;
        listen {http2} http2 backlog=4096;
        listen {tls} ssl backlog=4096;
        ssl_certificate {chain};
        ssl_certificate_key {key};"
            ),
            _ => format!("listen {http1};"),
        };
        write!(
            servers,
            "    server {{
        {listens}
        server_name {name}.localhost;
        location / {{
            proxy_pass http://{name};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Request-Id $request_id;
            proxy_next_upstream error timeout http_502 http_503 http_504;
            proxy_max_temp_file_size 0;
        }}
    }}
"
        )?;
    }
    let grpc_upstream = upstream("grpc", site.grpc_replicas);
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
    server_names_hash_max_size 65536;
    server_names_hash_bucket_size 128;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
{servers}{grpc_upstream}    server {{
        listen {grpc} http2 backlog=4096;
        location / {{
            grpc_pass grpc://grpc;
            grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            grpc_set_header X-Request-Id $request_id;
            grpc_next_upstream error timeout http_502 http_503 http_504;
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
    let servers = |replicas: &[SocketAddr], more: &str| -> String {
        let line = |(place, replica): (usize, &SocketAddr)| format!("    server s{place} {replica} {more}\n");
        replicas.iter().enumerate().map(line).collect()
    };
    // What observes, checks, and thirty thousand checks every other second would be measured instead.
    let observes = match site.setting.services {
        1 => "check inter 2s observe layer7 error-limit 5 on-error mark-down",
        _ => "",
    };
    let (mut backends, mut hosts) = (String::new(), String::new());
    for place in 0..site.setting.services {
        let name = service_name(place);
        writeln!(hosts, "{name}.localhost {name}")?;
        write!(backends, "backend {name}\n    balance roundrobin\n{}", servers(site.replicas, observes))?;
    }
    let map = site.directory.join("hosts.map");
    fs::write(&map, hosts)?;
    let grpc_servers = servers(site.grpc_replicas, "proto h2");
    let (http1, http2, tls, grpc) = (site.http1, site.http2, site.tls, site.grpc);
    let (map, both) = (map.display(), site.certificate.both.display());
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
    bind {tls} ssl crt {both} backlog 4096
    use_backend %[req.hdr(host),field(1,:),map_str({map},bench)]
frontend in-grpc
    bind {grpc} proto h2 backlog 4096
    default_backend grpc
backend grpc
    balance roundrobin
{grpc_servers}{backends}"
    );
    let path = site.directory.join("haproxy.cfg");
    fs::write(&path, text)?;
    Ok(strings(&["-db", "-f", &path.display().to_string()]))
}

pub(super) fn envoy(site: &Site<'_>) -> Result<Vec<String>> {
    let address = |address: &SocketAddr| {
        format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", address.ip(), address.port())
    };
    let cluster = |name: &str, replicas: &[SocketAddr], more: &str| {
        let endpoints: String = replicas
            .iter()
            .map(|replica| format!("        - endpoint: {{ address: {} }}\n", address(replica)))
            .collect();
        format!(
            "  - name: {name}
    type: STATIC
    connect_timeout: 1s
    lb_policy: ROUND_ROBIN
    outlier_detection: {{ consecutive_5xx: 5, interval: 1s, base_ejection_time: 1s, max_ejection_percent: 100 }}
    circuit_breakers:
      thresholds:
      - {{ max_connections: 20000, max_pending_requests: 20000, max_requests: 20000, max_retries: 1000 }}
{more}    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
{endpoints}"
        )
    };
    let host = |name: &str, domains: &str| {
        format!(
            "            - name: {name}
              domains: [{domains}]
              routes:
              - match: {{ prefix: / }}
                route:
                  cluster: {name}
                  timeout: 30s
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset,gateway-error
                    num_retries: 2
"
        )
    };
    let listener = |at: &SocketAddr, socket: &str, hosts: &str| {
        format!(
            "  - address: {}
    filter_chains:
    - {socket}filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: AUTO
          stat_prefix: bench
          use_remote_address: true
          route_config:
            virtual_hosts:
{hosts}          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
",
            address(at)
        )
    };
    let tls = format!(
        "transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{ filename: {} }}
              private_key: {{ filename: {} }}
      ",
        site.certificate.chain.display(),
        site.certificate.key.display()
    );
    let (mut hosts, mut clusters) = (String::new(), String::new());
    for place in 0..site.setting.services {
        let name = service_name(place);
        hosts += &host(&name, &format!("{name}.localhost"));
        clusters += &cluster(&name, site.replicas, "");
    }
    let speaks_http2 = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
";
    clusters += &cluster("grpc", site.grpc_replicas, speaks_http2);
    let listeners = [
        listener(&site.http1, "", &hosts),
        listener(&site.tls, &tls, &host("bench", "\"*\"")),
        listener(&site.grpc, "", &host("grpc", "\"*\"")),
    ];
    let text = format!(
        "admin:
  address: {}
static_resources:
  listeners:
{}  clusters:
{clusters}",
        address(&site.admin),
        listeners.concat(),
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

pub(super) fn pingora(site: &Site<'_>) -> Result<Vec<String>> {
    let listed =
        |replicas: &[SocketAddr]| replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Ok(vec![
        format!("http={}", site.http1),
        format!("tls={}", site.tls),
        format!("grpc={}", site.grpc),
        format!("certificate={}", site.certificate.chain.display()),
        format!("key={}", site.certificate.key.display()),
        format!("replicas={}", listed(site.replicas)),
        format!("grpc_replicas={}", listed(site.grpc_replicas)),
        format!("services={}", site.setting.services),
    ])
}

pub(super) fn relay(site: &Site<'_>) -> Result<Vec<String>> {
    Ok(strings(&[
        "--relay",
        &site.http1.to_string(),
        &site.replicas[0].to_string(),
        &site.grpc.to_string(),
        &site.grpc_replicas[0].to_string(),
    ]))
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}
