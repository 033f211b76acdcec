//! Where no replica may be registered, whoever asks: this machine for those who are not on it, link-local addresses and
//! the metadata services of clouds, ports of protocols that are not HTTP, control planes, and the registry's store.
//!
//! A registry that took such addresses would lend its data planes' reach to whoever registers (SSRF). Names are looked at
//! here only as far as they say something; data planes look at what they resolve to, at each connect.

use core::net::{IpAddr, SocketAddr};

use gateway_proto::{Address, Hazard, Networks, destination};

use crate::peers;

/// Ports of protocols in which a line of HTTP does harm; of those that browsers refuse, the ones with a server behind them.
const OTHER_PROTOCOLS: [u16; 22] = [
    21, 22, 23, 25, 53, 110, 111, 135, 139, 143, 389, 445, 465, 587, 636, 993, 995, 2049, 3306, 5432, 6379,
    11211,
];
/// etcd's, for clients and among members. It takes JSON over HTTP, too, and perhaps asks nobody who he is.
const ETCD: [u16; 2] = [2379, 2380];
/// Names under which clouds serve metadata.
const METADATA_NAMES: [&str; 3] = ["metadata.google.internal", "instance-data", "instance-data.ec2.internal"];

/// What was allowed against the rule, and what is ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointRules {
    pub(crate) networks: Networks,
    pub(crate) ports: Vec<u16>,
    /// Where this control plane listens.
    pub(crate) own: Option<Own>,
    /// Where this control plane is found, and the others of its registry.
    pub(crate) control_planes: peers::Whereabouts,
    /// Where the members of the registry's store are: whoever reaches one may read ids of leases there, and write.
    pub(crate) store: Vec<Address>,
}

/// A listener of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) listen: SocketAddr,
    /// Whether an address is one of this machine's, as the system knows them.
    pub(crate) is_of_this_machine: fn(IpAddr) -> bool,
}

impl EndpointRules {
    /// Whether a replica may be at an address, when somebody on this machine asks, or somebody who is not.
    ///
    /// # Errors
    /// What is wrong with it, to be read after the address.
    pub(crate) fn check(&self, address: &Address, is_local: bool) -> Result<(), String> {
        let port = address.port();
        if OTHER_PROTOCOLS.contains(&port) && !self.ports.contains(&port) {
            return Err(format!(
                "has port {port}, at which another protocol than HTTP is spoken: {}",
                allow(&format!(":{port}"))
            ));
        }
        if ETCD.contains(&port) && !self.ports.contains(&port) {
            return Err(format!("has port {port}, at which etcd listens: {}", allow(&format!(":{port}"))));
        }
        if self.control_planes.any(|known| self.is_same_place(known, address)) {
            return Err("is a control plane".into());
        }
        if self.store.iter().any(|member| self.is_same_place(member, address)) {
            return Err("is the registry's store".into());
        }
        match address.socket() {
            Some(socket) => self.check_ip(socket, is_local),
            None => self.check_name(address, is_local),
        }
    }

    fn check_ip(&self, socket: SocketAddr, is_local: bool) -> Result<(), String> {
        let ip = socket.ip();
        if self.is_own(socket) {
            return Err("is this control plane itself".into());
        }
        let hazard = Hazard::of(ip);
        // A wide network, as that of a cluster's pods, is not meant to have a metadata service in it.
        let is_allowed = match hazard {
            Some(Hazard::Metadata) => self.networks.name(ip),
            _ => self.networks.contains(ip),
        };
        match hazard {
            None => Ok(()),
            Some(_) if is_allowed => Ok(()),
            Some(Hazard::Loopback) if is_local => Ok(()),
            Some(Hazard::Loopback) => Err(format!(
                "is a loopback address, which only who is on this machine may register: name the one that data planes reach, \
                 or {}",
                allow(&ip.to_string())
            )),
            Some(hazard) => Err(format!("is {hazard}: {}", allow(&ip.to_string()))),
        }
    }

    fn check_name(&self, address: &Address, is_local: bool) -> Result<(), String> {
        let host = address.host();
        let is_localhost = is_localhost(host);
        let is_own = is_localhost && self.own.is_some_and(|own| own.listen.port() == address.port());
        if is_own {
            return Err("is this control plane itself".into());
        }
        if is_localhost && !is_local && !self.networks.contains(IpAddr::from([127, 0, 0, 1])) {
            return Err("is a name of this machine, which only who is on it may register: name the one that data planes \
                        reach"
                .into());
        }
        if METADATA_NAMES.contains(&host) {
            return Err("is a name of a cloud's metadata service".into());
        }
        Ok(())
    }

    /// Whether what is sent to an address comes, or may come, to something that is known to be at another. At loopback, whoever is
    /// at that port of its own machine is reached, and which machine that is depends on the data plane.
    fn is_same_place(&self, known: &Address, address: &Address) -> bool {
        if known.port() != address.port() {
            return false;
        }
        // An address within IPv6 may be this machine's own as it is, or lead here from elsewhere.
        let is_here = |ip| {
            self.own
                .is_some_and(|own| (own.is_of_this_machine)(ip) || (own.is_of_this_machine)(destination(ip)))
        };
        let leads_to = |address: &Address| address.socket().map(|socket| destination(socket.ip()));
        known.host() == address.host()
            || leads_to(address).is_some_and(|ip| leads_to(known) == Some(ip))
            || is_loopback(address)
            || is_loopback(known) && address.socket().is_some_and(|socket| is_here(socket.ip()))
    }

    /// Whether something that is sent there comes to this listener.
    fn is_own(&self, socket: SocketAddr) -> bool {
        self.own.is_some_and(|Own { listen, is_of_this_machine }| {
            let own = listen.ip().to_canonical();
            let is_here = |ip: IpAddr| match own.is_unspecified() {
                true => ip.is_loopback() || is_of_this_machine(ip),
                false => ip == own || ip == destination(own),
            };
            listen.port() == socket.port() && [socket.ip(), destination(socket.ip())].into_iter().any(is_here)
        })
    }
}

fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

fn is_loopback(address: &Address) -> bool {
    address
        .socket()
        .map_or_else(|| is_localhost(address.host()), |socket| destination(socket.ip()).is_loopback())
}

fn allow(what: &str) -> String {
    format!("the control plane may be started with --allow-endpoint {what}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> EndpointRules {
        listening("127.0.0.1:7400")
    }

    /// On a machine that has the address 10.0.0.7.
    fn listening(listen: &str) -> EndpointRules {
        let is_of_this_machine = |ip| ip == IpAddr::from([10, 0, 0, 7]);
        let own = Own { listen: listen.parse().unwrap(), is_of_this_machine };
        EndpointRules { own: Some(own), ..EndpointRules::default() }
    }

    fn refusal(rules: &EndpointRules, address: &str, is_local: bool) -> Option<String> {
        rules.check(&Address::parse(address).unwrap(), is_local).err()
    }

    #[test]
    fn what_would_lead_to_something_that_trusts_its_neighbours_is_refused_from_afar_and_from_here() {
        for address in [
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "[fe80::1]:80",
            "100.64.0.1:80",
            "100.100.100.200:80",
            "255.255.255.255:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[64:ff9b:1::a9fe:a9fe]:80",
            "[fd00:ec2::23]:80",
            "0.1.2.3:80",
            "metadata.google.internal:80",
            "10.0.0.1:22",
            "10.0.0.1:25",
            "10.0.0.1:6379",
            "db.example:5432",
            "127.0.0.1:7400",
            "localhost:7400",
        ] {
            for is_local in [false, true] {
                assert!(refusal(&rules(), address, is_local).is_some(), "{address} local {is_local}");
            }
        }
    }

    #[test]
    fn loopback_is_for_those_who_are_on_this_machine() {
        for address in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "localhost:80",
            "a.localhost:80",
        ] {
            assert!(refusal(&rules(), address, false).is_some(), "{address}");
            assert_eq!(refusal(&rules(), address, true), None, "{address}");
        }
    }

    #[test]
    fn other_addresses_are_taken_from_anybody() {
        for address in
            ["10.0.0.1:80", "192.168.1.1:8080", "[2001:db8::1]:80", "orders.example:80", "8.8.8.8:443"]
        {
            assert_eq!(refusal(&rules(), address, false), None, "{address}");
        }
    }

    #[test]
    fn what_an_operator_allows_is_taken_but_for_this_control_plane() {
        let rules = EndpointRules {
            networks: Networks::parse(["169.254.0.0/16", "127.0.0.0/8"]).unwrap(),
            ports: vec![6379],
            ..rules()
        };
        for address in ["169.254.1.1:80", "127.0.0.1:80", "localhost:80", "10.0.0.1:6379"] {
            assert_eq!(refusal(&rules, address, false), None, "{address}");
        }
        assert!(refusal(&rules, "127.0.0.1:7400", false).is_some());
        assert!(refusal(&rules, "10.0.0.1:22", false).is_some());
        assert!(refusal(&rules, "10.0.0.1:22", false).unwrap().contains("--allow-endpoint :22"));
    }

    #[test]
    fn a_metadata_service_is_allowed_by_its_own_address_and_by_no_network_around_it() {
        let allowing = |network| EndpointRules {
            networks: Networks::parse([network]).unwrap(),
            ..EndpointRules::default()
        };
        let wide = allowing("100.64.0.0/10");
        assert_eq!(refusal(&wide, "100.64.0.1:80", false), None);
        for address in ["100.100.100.200:80", "[::ffff:100.100.100.200]:80"] {
            assert!(refusal(&wide, address, false).unwrap().contains("metadata"), "{address}");
            assert_eq!(refusal(&allowing("100.100.100.200"), address, false), None, "{address}");
        }
    }

    proptest! {
        #[test]
        fn no_notation_of_an_address_makes_it_another(bits: u32, port in 1_u16.., is_local: bool) {
            let ip = std::net::Ipv4Addr::from_bits(bits);
            let forms = [format!("{ip}:{port}"), format!("[{}]:{port}", ip.to_ipv6_mapped())];
            let read = forms.map(|form| Address::parse(&form).map(|address| rules().check(&address, is_local).is_ok()));
            prop_assert_eq!(read[0].is_ok(), read[1].is_ok());
            if let [Ok(one), Ok(other)] = read {
                prop_assert_eq!(one, other);
                prop_assert!(!one || Hazard::of(ip.into()).is_none_or(|hazard| hazard == Hazard::Loopback && is_local));
            }
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_found_at_those_of_its_machine() {
        let rules = listening("0.0.0.0:7400");
        for address in ["127.0.0.1:7400", "10.0.0.7:7400", "[::ffff:10.0.0.7]:7400", "[64:ff9b::a00:7]:7400"]
        {
            assert_eq!(
                refusal(&rules, address, true).as_deref(),
                Some("is this control plane itself"),
                "{address}"
            );
        }
        // Another port, and somebody else's replica.
        for address in ["127.0.0.1:7401", "10.0.0.7:7401", "10.0.0.8:7400"] {
            assert_eq!(refusal(&rules, address, true), None, "{address}");
        }
        assert_eq!(
            refusal(&listening("127.0.0.1:7400"), "10.0.0.7:7400", true),
            None,
            "it listens elsewhere"
        );
    }

    #[test]
    fn where_a_control_plane_of_the_registry_is_said_to_be_is_no_replica() {
        let peers = ["cp-1.example:7400", "https://10.0.0.8:7400"];
        let peers = peers.map(|text| peers::Address::parse(text, false).unwrap()).into();
        let settings = peers::Settings::at(peers).advertising("CP-0.example:7400");
        let rules = EndpointRules {
            networks: Networks::parse(["10.0.0.0/8"]).unwrap(),
            control_planes: peers::Whereabouts::new(&settings, None),
            ..EndpointRules::default()
        };
        for address in [
            "cp-0.example:7400",
            "cp-1.example:7400",
            "10.0.0.8:7400",
            "[::ffff:10.0.0.8]:7400",
            "[64:ff9b::a00:8]:7400",
        ] {
            assert_eq!(refusal(&rules, address, true).as_deref(), Some("is a control plane"), "{address}");
        }
        assert_eq!(refusal(&rules, "cp-0.example:7401", true), None);
        assert_eq!(refusal(&rules, "10.0.0.9:7400", true), None);
    }

    #[test]
    fn a_control_plane_is_found_at_loopback_by_its_port_whatever_name_it_goes_by() {
        for known in ["localhost:7500", "127.0.0.1:7500", "cp-1.example:7500"] {
            let settings = peers::Settings::at(vec![peers::Address::parse(known, false).unwrap()]);
            let rules = EndpointRules { control_planes: peers::Whereabouts::new(&settings, None), ..rules() };
            for address in
                ["localhost:7500", "a.localhost:7500", "127.0.0.1:7500", "127.0.0.2:7500", "[::1]:7500"]
            {
                let refused = refusal(&rules, address, true);
                assert_eq!(refused.as_deref(), Some("is a control plane"), "{address} of {known}");
            }
            assert_eq!(refusal(&rules, "localhost:7501", true), None);
            let by_its_machine = refusal(&rules, "10.0.0.7:7500", true);
            assert_eq!(by_its_machine.is_some(), known != "cp-1.example:7500", "{known}");
        }
    }

    #[test]
    fn the_registrys_store_is_no_replica_whoever_asks_and_whatever_is_allowed() {
        let store = ["127.0.0.1:27379", "etcd-1.example:27380", "10.0.0.9:27381"];
        let rules = EndpointRules {
            networks: Networks::parse(["10.0.0.0/8", "127.0.0.0/8"]).unwrap(),
            ports: vec![27379],
            store: store.map(|member| Address::parse(member).unwrap()).into(),
            ..rules()
        };
        for address in [
            "127.0.0.1:27379",
            "[::1]:27379",
            "localhost:27379",
            "10.0.0.7:27379",
            "etcd-1.example:27380",
            "localhost:27380",
            "10.0.0.9:27381",
            "[::ffff:10.0.0.9]:27381",
            "[64:ff9b::a00:9]:27381",
            "[64:ff9b:1::a00:9]:27381",
            "[2002:a00:9::1]:27381",
            "[64:ff9b::a00:7]:27379",
            "[64:ff9b::7f00:1]:27380",
        ] {
            let refused = refusal(&rules, address, true);
            assert_eq!(refused.as_deref(), Some("is the registry's store"), "{address}");
        }
        for address in ["10.0.0.8:27379", "other.example:27380", "10.0.0.9:80"] {
            assert_eq!(refusal(&rules, address, true), None, "{address}");
        }
    }

    #[test]
    fn ports_of_etcd_are_taken_where_an_operator_allows_them() {
        for port in ETCD {
            let address = format!("other.example:{port}");
            let refused = refusal(&rules(), &address, true).unwrap();
            assert!(refused.contains(&format!("--allow-endpoint :{port}")), "{refused}");
            let allowing = EndpointRules { ports: vec![port], ..rules() };
            assert_eq!(refusal(&allowing, &address, true), None);
        }
    }
}
