//! The listening sockets of the proxy: bound here, taken over from a data plane that leaves, or passed by a service manager.
//!
//! Each worker listens on a socket of its own at one port, between which the kernel spreads connections. A connection
//! belongs to the socket at which it arrived until it is accepted, so one that was taken over has to be accepted from for as long
//! as it lives, also when there are fewer workers than sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use gateway_runtime::Failure;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes before a worker accepts them, for each worker.
pub(in crate::proxy) const BACKLOG: i32 = 1024;

/// The sockets at one address.
#[derive(Debug)]
pub struct Sockets {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
    missing: Missing,
}

/// What becomes of workers for which there is no socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Another is bound at the address.
    Bound,
    /// They accept from the same ones as others. What this process bound beside sockets that outlive it would take
    /// connections with it when it ends; and what another user has bound, nobody can bind beside.
    Shared,
}

impl Sockets {
    /// Binds one for each worker; port 0 takes a free one.
    ///
    /// # Errors
    /// As of [`Failure::unbound`].
    pub fn bind(flag: &str, listen: SocketAddr, workers: usize) -> Result<Self, Failure> {
        Self::bind_for_each(listen, workers).map_err(|error| Failure::unbound(flag, listen, &error))
    }

    fn bind_for_each(listen: SocketAddr, workers: usize) -> io::Result<Self> {
        // Shared ports would let a second gateway take half of the connections in silence. A plain bind finds it out.
        drop(TcpListener::bind(listen)?);
        let first = bind(listen)?;
        let mut sockets =
            Self { address: first.local_addr()?, listeners: vec![first], missing: Missing::Bound };
        sockets.extend_to(workers)?;
        Ok(sockets)
    }

    /// Those that listen already, if there are any: all at one address.
    pub(crate) fn taken_over(listeners: Vec<TcpListener>) -> Option<Self> {
        let address = listeners.first()?.local_addr().ok()?;
        Some(Self { address, listeners, missing: Missing::Bound })
    }

    /// Those that a service manager has bound, and keeps, if there are any: all at one address.
    pub(crate) fn passed(listeners: Vec<TcpListener>) -> Option<Self> {
        Self::taken_over(listeners).map(|sockets| Self { missing: Missing::Shared, ..sockets })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same sockets once more, for another process.
    pub(crate) fn duplicate(&self) -> io::Result<Vec<TcpListener>> {
        self.listeners.iter().map(TcpListener::try_clone).collect()
    }

    /// Further ones, until each worker has one.
    fn extend_to(&mut self, workers: usize) -> io::Result<()> {
        let known = self.listeners.len();
        while self.listeners.len() < workers {
            self.listeners.push(match self.missing {
                Missing::Bound => bind(self.address)?,
                Missing::Shared => self.listeners[self.listeners.len() % known].try_clone()?,
            });
        }
        Ok(())
    }

    /// For each worker those that it is to accept from: one at least, and more where more were taken over.
    ///
    /// # Errors
    /// When more workers than sockets cannot have one bound.
    pub(in crate::proxy) fn share_out(mut self, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
        self.extend_to(workers)?;
        let mut shares: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for (index, listener) in self.listeners.into_iter().enumerate() {
            shares[index % workers].push(listener);
        }
        Ok(shares)
    }
}

fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket() {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        for (bound, workers, expected) in
            [(3, 3, vec![1, 1, 1]), (3, 2, vec![2, 1]), (2, 4, vec![1, 1, 1, 1])]
        {
            let sockets = Sockets::bind("--listen", anywhere, bound).unwrap();
            let address = sockets.address();
            let again = Sockets::taken_over(sockets.duplicate().unwrap()).unwrap();
            drop(sockets);
            let shares = again.share_out(workers).unwrap();
            assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), expected);
            assert!(shares.iter().flatten().all(|listener| listener.local_addr().unwrap() == address));
        }
    }

    #[test]
    fn workers_share_a_socket_that_was_passed_and_bind_none_beside_it() {
        // As a service manager binds it: nobody else can bind there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = Sockets::passed(vec![listener]).unwrap();
        let address = sockets.address();
        let shares = sockets.share_out(3).unwrap();
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert!(shares.iter().flatten().all(|listener| listener.local_addr().unwrap() == address));
        assert!(Sockets::passed(Vec::new()).is_none());
    }
}
