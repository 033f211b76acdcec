//! Networks of their own for the parts of a gateway, joined by routes that can be cut: any pair, also one way.
//!
//! Inside of the drill's own network (`network`), each part has another one with one address, and this one routes between them.
//! What is cut is dropped without a word. The drill itself, its clients, owners and replicas are outside of all parts, and reach them
//! unless they are cut off by name.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::{Duration, Instant},
};

use gateway_tests::{Place, Process, bounded};

use crate::{network, stage::SECOND};

const FILTER: &str = "table inet parts {
    set cut { type ipv4_addr . ipv4_addr; }
    set deaf { type ipv4_addr; }
    set mute { type ipv4_addr; }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ip saddr . ip daddr @cut drop
    }
    chain output {
        type filter hook output priority filter; policy accept;
        ip daddr @deaf drop
    }
    chain input {
        type filter hook input priority filter; policy accept;
        ip saddr @mute drop
    }
}
";

/// One part, by its number.
pub(crate) type Part = usize;

/// The networks of all parts. They go with this value, and with the processes in them.
#[derive(Debug)]
pub(crate) struct Parts(Vec<Process>);

impl Parts {
    /// So many networks, at most 200.
    pub(crate) async fn new(count: usize) -> Self {
        assert!(network::is_inside(), "only in a network of its own");
        run("ip", &["link", "set", "lo", "up"]);
        // It is this network's alone.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the network is ours");
        let mut holders = Vec::new();
        for part in 0..count {
            // A network lasts as long as somebody is in it.
            let holder = Process::spawn("part", Command::new("unshare").args(["--net", "sleep", "infinity"]));
            let own = format!("/proc/{}/ns/net", holder.pid());
            let outer = fs::read_link("/proc/self/ns/net").expect("there is one");
            let began = Instant::now();
            while fs::read_link(&own).is_ok_and(|inner| inner == outer) {
                assert!(began.elapsed() < 10 * SECOND, "unshare makes no network");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let (link, pid) = (format!("part{part}"), holder.pid().to_string());
            run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
            run("ip", &["addr", "add", &format!("{}/24", here(part)), "dev", &link]);
            run("ip", &["link", "set", &link, "up"]);
            let inside = format!(
                "ip link set lo up && ip addr add {}/24 dev eth0 && ip link set eth0 up && ip route add default via {}",
                there(part),
                here(part)
            );
            run("nsenter", &[&format!("--net={own}"), "sh", "-c", &inside]);
            holders.push(holder);
        }
        network::nft(FILTER);
        Self(holders)
    }

    /// Where programs of this part are started.
    pub(crate) fn place(&self, part: Part) -> Place {
        let network = format!("--net=/proc/{}/ns/net", self.0[part].pid());
        Place::at(there(part)).behind(&["nsenter", &network])
    }

    /// Where this part reaches what is outside of all parts.
    pub(crate) fn outside(&self, part: Part) -> IpAddr {
        here(part)
    }

    /// From now on nothing reaches any of `to` from any of `from`. What goes the other way arrives.
    pub(crate) fn cut(&self, from: &[Part], to: &[Part]) {
        let pairs = from
            .iter()
            .flat_map(|from| to.iter().map(move |to| format!("{} . {}", there(*from), there(*to))));
        let pairs = pairs.collect::<Vec<_>>().join(", ");
        network::nft(&format!("add element inet parts cut {{ {pairs} }}\n"));
    }

    /// From now on nothing reaches this part from outside.
    pub(crate) fn deafen(&self, part: Part) {
        network::nft(&format!("add element inet parts deaf {{ {} }}\n", there(part)));
    }

    /// From now on nothing reaches the outside from this part.
    pub(crate) fn silence(&self, part: Part) {
        network::nft(&format!("add element inet parts mute {{ {} }}\n", there(part)));
    }

    /// Nothing is cut any more.
    pub(crate) fn heal(&self) {
        network::nft("flush set inet parts cut\nflush set inet parts deaf\nflush set inet parts mute\n");
    }
}

/// The address of a part.
fn there(part: Part) -> IpAddr {
    Ipv4Addr::new(10, 77, u8::try_from(part).expect("there are few"), 2).into()
}

/// The address at this end of its route.
fn here(part: Part) -> IpAddr {
    Ipv4Addr::new(10, 77, u8::try_from(part).expect("there are few"), 1).into()
}

fn run(program: &str, args: &[&str]) {
    let output = bounded(program).args(args).output().expect("it was tried");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {why}");
}
