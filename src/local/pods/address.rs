//! An address for each pod, out of the loopback network.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

/// The network pods get their addresses from unless told otherwise: `127.1.0.2` and on.
pub const POD_NETWORK: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
/// How many addresses a network has: those of a /16 but for its first two and its last.
const SIZE: u32 = (1 << 16) - 3;
/// How many addresses in use by somebody else are passed over before giving up.
const MOST_TAKEN: u32 = 4096;

/// The UDP port held on an address as long as it is in use. Nothing is ever sent to it: it keeps other processes off an
/// address from the moment it is taken, long before the pod listens there.
const CLAIM_PORT: u16 = 8012;

/// Why a pod gets no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The machine has no such address.
    #[error(
        "{address} cannot be listened on ({source}): each pod needs a loopback address of its own, which Linux has by itself. \
         Elsewhere add them first: for i in $(seq 2 50); do sudo ifconfig lo0 alias {}.$i up; done",
        prefix(*address)
    )]
    Unavailable {
        /// The address.
        address: Ipv4Addr,
        /// What binding it said.
        source: io::Error,
    },
    /// All are in use.
    #[error("no free address in {network}/16: stop other programs that listen there, or choose another pod network")]
    Exhausted {
        /// The network.
        network: Ipv4Addr,
    },
}

fn prefix(address: Ipv4Addr) -> String {
    let [a, b, c, _] = address.octets();
    format!("{a}.{b}.{c}")
}

/// Hands out addresses; the one given back longest ago comes last again. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Addresses {
    network: Ipv4Addr,
    /// Ports that must be free on an address.
    ports: Vec<u16>,
    claim: Claim,
    state: Arc<Mutex<State>>,
}

/// Takes an address off the market, if all of the ports are free on it.
type Claim = fn(Ipv4Addr, &[u16]) -> io::Result<UdpSocket>;

#[derive(Debug, Default)]
struct State {
    next: u32,
    taken: BTreeSet<u32>,
}

impl Addresses {
    /// Addresses of the /16 around `network` on which all of `ports` are free.
    pub fn new(network: Ipv4Addr, ports: &[u16]) -> Self {
        let [a, b, ..] = network.octets();
        Self { network: Ipv4Addr::new(a, b, 0, 0), ports: ports.to_vec(), claim, state: Arc::default() }
    }

    /// Takes the next free address. It is free again when the result is dropped.
    ///
    /// A machine that does not have the whole network, but as many addresses of it as somebody added, begins anew with the
    /// first after the last it has.
    pub fn take(&self) -> Result<Address, AddressError> {
        let mut passed_over = 0;
        let (mut count, mut beyond) = (SIZE, None);
        loop {
            let Some(number) = self.reserve(count) else {
                return Err(beyond.unwrap_or(AddressError::Exhausted { network: self.network }));
            };
            // Given back by its drop if it turns out to be of no use.
            let mut address = Address { ip: self.address(number), number, pool: self.clone(), claim: None };
            match (self.claim)(address.ip, &self.ports) {
                Ok(claim) => {
                    address.claim = Some(claim);
                    return Ok(address);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    passed_over += 1;
                    if passed_over >= MOST_TAKEN {
                        return Err(AddressError::Exhausted { network: self.network });
                    }
                }
                Err(source) => {
                    let unavailable = AddressError::Unavailable { address: address.ip, source };
                    if number == 0 {
                        return Err(unavailable);
                    }
                    (count, beyond) = (number, Some(unavailable));
                }
            }
        }
    }

    /// How many are in use.
    pub fn in_use(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.len()
    }

    /// The next free one of the first `count`.
    fn reserve(&self, count: u32) -> Option<u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = if state.next < count { state.next } else { 0 };
        let number = (0..count).map(|step| (start + step) % count).find(|number| !state.taken.contains(number))?;
        state.taken.insert(number);
        state.next = (number + 1) % SIZE;
        Some(number)
    }

    fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 2 + number)
    }
}

fn claim(ip: Ipv4Addr, ports: &[u16]) -> io::Result<UdpSocket> {
    let claim = UdpSocket::bind((ip, CLAIM_PORT))?;
    ports.iter().try_for_each(|port| TcpListener::bind((ip, *port)).map(drop))?;
    Ok(claim)
}

/// An address in use; dropping it gives it back.
#[derive(Debug)]
pub struct Address {
    ip: Ipv4Addr,
    number: u32,
    pool: Addresses,
    claim: Option<UdpSocket>,
}

impl Address {
    /// The address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // Before the number is free, so that whoever takes it finds the address free too.
        self.claim = None;
        self.pool.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_given_back_is_not_given_out_again_at_once() {
        let addresses = Addresses::new(Ipv4Addr::new(127, 71, 0, 0), &[]);
        let first = addresses.take().expect("an address");
        assert_eq!(first.ip(), Ipv4Addr::new(127, 71, 0, 2));
        drop(first);
        let second = addresses.take().expect("an address");
        assert_eq!(second.ip(), Ipv4Addr::new(127, 71, 0, 3));
        assert_eq!(addresses.in_use(), 1);
    }

    /// Where loopback addresses are added by hand there are a few dozen; pods once stayed without one after that many.
    #[test]
    fn the_addresses_a_machine_has_are_used_again_and_again() {
        let three = |ip: Ipv4Addr, ports: &[u16]| match ip.octets() {
            [.., 2..=4] => claim(ip, ports),
            _ => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        let addresses = Addresses { claim: three, ..Addresses::new(Ipv4Addr::new(127, 74, 0, 0), &[]) };
        let last = |address: &Address| address.ip().octets()[3];
        let one_by_one: Vec<u8> = (0..7).map(|_| last(&addresses.take().expect("an address"))).collect();
        assert_eq!(one_by_one, [2, 3, 4, 2, 3, 4, 2]);
        let mut held: Vec<Address> = (0..3).map(|_| addresses.take().expect("an address")).collect();
        assert_eq!(held.iter().map(last).collect::<Vec<_>>(), [3, 4, 2]);
        let told = addresses.take().expect_err("all are in use").to_string();
        assert!(told.contains("127.74.0.5") && told.contains("ifconfig lo0 alias"), "{told}");
        held.remove(1);
        assert_eq!(last(&addresses.take().expect("an address")), 4);
    }

    #[test]
    fn two_processes_never_take_the_same_address() {
        // Two pools know as little of each other as two processes do.
        let pools = [(); 2].map(|()| Addresses::new(Ipv4Addr::new(127, 73, 0, 0), &[]));
        let taken: Vec<_> = (0..6).map(|n| pools[n % 2].take().expect("an address")).collect();
        let distinct: BTreeSet<_> = taken.iter().map(Address::ip).collect();
        assert_eq!(distinct.len(), taken.len(), "{distinct:?}");
    }

    #[test]
    fn an_address_somebody_listens_on_is_passed_over() {
        let other = TcpListener::bind("127.72.0.2:0").expect("a port");
        let port = other.local_addr().expect("an address").port();
        let addresses = Addresses::new(Ipv4Addr::new(127, 72, 0, 0), &[port]);
        assert_eq!(addresses.take().expect("an address").ip(), Ipv4Addr::new(127, 72, 0, 3));
        assert_eq!(addresses.in_use(), 0);
    }

    #[test]
    fn an_address_this_machine_has_not_is_told_with_the_way_out() {
        let addresses = Addresses::new(Ipv4Addr::new(192, 0, 2, 0), &[0]);
        let told = addresses.take().expect_err("no such address").to_string();
        assert!(told.contains("192.0.0.2") && told.contains("ifconfig lo0 alias"), "{told}");
    }
}
