//! `gwctl demo`: one command starts everything, and the lines that it prints can be pasted as they are.

use std::{net::SocketAddr, path::Path};

use gateway_tests::{Process, binaries, command, eventually, http1, tools};
use serde_json::Value;

struct Demo {
    process: Process,
    ready: Value,
}

impl Demo {
    async fn start(args: &[&str]) -> Self {
        let mut command = binaries::gwctl();
        command.args(["demo", "--random-ports"]).args(args);
        let mut process = Process::spawn_group("demo", &mut command);
        let ready = process.ready().await;
        Self { process, ready }
    }

    fn address(&self, field: &str) -> SocketAddr {
        self.ready[field].as_str().unwrap().parse().unwrap()
    }

    fn replicas(&self) -> Vec<SocketAddr> {
        let replicas = self.ready["replicas"].as_array().unwrap();
        replicas.iter().map(|replica| replica["address"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// The lines of the banner that call `program`, without their comments.
    async fn lines_to_paste(&self, program: &str) -> Vec<String> {
        eventually("the banner is complete", async || {
            let banner = self.process.stderr();
            if !banner.contains("Ctrl-C") {
                return Err(banner);
            }
            let lines = banner.lines().map(|line| line.split("     #").next().unwrap_or(line).trim());
            let is_call = |line: &&str| {
                let name = line.split(' ').next().and_then(|first| Path::new(first).file_name());
                name.is_some_and(|name| name == program)
            };
            Ok(lines
                .filter(is_call)
                .map(|line| line.split("     #").next().unwrap_or(line).trim().to_owned())
                .collect())
        })
        .await
    }

    /// SIGTERM, and its end.
    async fn end(mut self) {
        self.process.terminate();
        assert_eq!(self.process.exited().await.code(), Some(0), "{}", self.process.stderr());
    }
}

#[tokio::test]
async fn it_starts_everything_serves_and_ends_by_itself_with_success() {
    let mut demo = Demo::start(&["--duration", "5s", "--rate", "100"]).await;
    let replicas = demo.replicas();
    assert_eq!(replicas.len(), 3);
    for &replica in &replicas {
        let hello = http1::get(replica, "/hello").await;
        assert!(hello.body().starts_with(b"Hello from "), "{:?}", hello.body());
    }
    let mut greetings: Vec<_> = Vec::new();
    for _ in 0..12 {
        let answer = http1::get(demo.address("proxy"), "/client-service/hello").await;
        assert_eq!(answer.status(), 200);
        greetings.push(answer.body().clone());
    }
    greetings.sort();
    greetings.dedup();
    assert_eq!(greetings.len(), 3, "every replica answers: {greetings:?}");

    let ended = demo.process.exited().await;
    assert_eq!(ended.code(), Some(0), "{}", demo.process.stderr());
    for replica in replicas {
        assert!(http1::Connection::open(replica).await.is_err(), "{replica} still runs");
    }
}

#[tokio::test]
async fn no_request_fails_when_one_of_its_replicas_is_killed_as_printed() {
    let mut demo = Demo::start(&["--duration", "6s", "--rate", "50"]).await;
    let kill = demo.lines_to_paste("kill").await;
    assert_eq!(kill.len(), 1, "{kill:?}");
    command::shell(&kill[0], &tools::path()).await.success();
    assert_eq!(demo.process.exited().await.code(), Some(0), "{}", demo.process.stderr());
}

#[tokio::test]
async fn the_gwctl_lines_that_it_prints_work() {
    let demo = Demo::start(&[]).await;
    let lines = demo.lines_to_paste("gwctl").await;
    assert!(lines.len() >= 3, "{lines:?}");
    for line in lines.iter().filter(|line| !line.ends_with("events -w")) {
        command::shell(line, &tools::path()).await.success();
    }
    demo.end().await;
}

#[tokio::test]
async fn its_data_plane_records_what_other_rules_are_tried_on() {
    let demo = Demo::start(&["--no-load"]).await;
    let lines = demo.lines_to_paste("gwctl").await;
    let what_if = lines.iter().find(|line| line.contains("what-if")).unwrap();
    for _ in 0..3 {
        assert_eq!(http1::get(demo.address("proxy"), "/client-service/hello").await.status(), 200);
    }
    let said = command::shell(&format!("{what_if} -o json"), &tools::path()).await.success();
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert!(answer["unrecordingNodeIds"].as_array().is_none_or(Vec::is_empty), "{answer}");
    assert_eq!(answer["nodeCount"], 1, "{answer}");
    demo.end().await;
}

#[tokio::test]
async fn the_curl_lines_that_it_prints_work_by_curl() {
    tools::curl();
    let demo = Demo::start(&["--no-load"]).await;
    let lines = demo.lines_to_paste("curl").await;
    let by = |part: &str| {
        let line = lines.iter().find(|line| line.contains(part));
        line.unwrap_or_else(|| panic!("no curl line with {part}: {lines:?}"))
    };
    let path = tools::path();
    for line in [by("/client-service/hello"), by("client-service.localhost")] {
        let said = command::shell(line, &path).await.success();
        assert!(said.starts_with("Hello from "), "{line}: {said}");
    }
    for line in &lines {
        command::shell(line, &path).await.success();
    }
    demo.end().await;
}

#[tokio::test]
async fn the_grpcurl_line_that_it_prints_works_by_grpcurl() {
    tools::grpcurl();
    let demo = Demo::start(&["--no-load"]).await;
    let lines = demo.lines_to_paste("grpcurl").await;
    assert!(!lines.is_empty());
    for line in &lines {
        let listed = command::shell(line, &tools::path()).await.success();
        assert!(listed.contains("gateway.v1.RegistryService"), "{line}: {listed}");
    }
    demo.end().await;
}

#[tokio::test]
async fn its_replicas_fail_as_they_are_told_and_the_gateway_deals_with_it() {
    let demo = Demo::start(&["--no-load"]).await;
    let proxy = demo.address("proxy");
    let status = async |path: &str| http1::get(proxy, path).await.status().as_u16();
    assert_eq!(status("/client-service/messages").await, 200);
    assert_eq!(status("/client-service/messages/down").await, 500);
    assert_eq!(status("/client-service/messages/fallback").await, 200);
    let flaky =
        [status("/client-service/messages/flaky").await, status("/client-service/messages/unreliable").await];
    assert!(flaky.iter().all(|status| [200, 500].contains(status)), "{flaky:?}");

    // A replica that resets every connection is left alone soon: GETs are answered by the others.
    let victim = demo.replicas()[2];
    let fault = http1::request(http::Method::POST, "/fault/reset?for=20s");
    assert!(http1::send(victim, fault).await.status().is_success());
    for _ in 0..30 {
        assert_eq!(status("/client-service/hello").await, 200);
    }
    let gwctl = format!("http://{}", demo.address("control"));
    let breakers = eventually("a breaker opens", async || {
        let listed = command::gwctl(&gwctl, &["get", "breakers", "-o", "name"]).await.success();
        if listed.contains("client-service/r-3") { Ok(listed) } else { Err(listed) }
    })
    .await;
    assert_eq!(breakers.lines().count(), 1, "only the one that fails: {breakers}");
    demo.end().await;
}

#[tokio::test]
async fn the_tour_tells_seven_steps_of_which_each_holds_and_ends_by_itself() {
    let mut command = binaries::gwctl();
    command.args(["demo", "--tour", "--random-ports"]);
    let told = command::run(command).await.success();
    let titles = [
        "Retry",
        "Failover",
        "The breaker opens",
        "Half-open",
        "Fallback",
        "Drain",
        "The control plane goes away",
    ];
    let mut from = 0;
    for (number, title) in titles.into_iter().enumerate() {
        let heading = format!("\n{}. {title}\n   ", number + 1);
        let at =
            told[from..].find(&heading).unwrap_or_else(|| panic!("no {heading:?} in its place:\n{told}"));
        from += at + heading.len();
        // What will happen, then what is done, then what came of it.
        let rest = &told[from..];
        let (command, held) = (rest.find("\n   $ ").unwrap(), rest.find("\n   √ ").unwrap());
        assert!(command < held, "{told}");
    }
    assert_eq!(told.matches("\n   √ ").count(), 7, "{told}");
    assert!(!told.contains('×') && told.contains("All 7 steps held"), "{told}");
}
