//! Somebody on the path to a port: he passes on what is said, both ways, keeps it, and flips a bit where
//! he is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use meander::{Contact, Port};

/// See the module.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    there: Mutex<SocketAddr>,
    recorded: Mutex<Vec<u8>>,
    /// Flip a bit of what comes next.
    alter: AtomicBool,
    altered: AtomicUsize,
}

impl Relay {
    /// Between a port and whoever dials what [`Relay::contact`] says.
    pub fn before(port: &Port) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            there: Mutex::new(address_of(port)),
            recorded: Mutex::default(),
            alter: AtomicBool::new(false),
            altered: AtomicUsize::new(0),
        });
        let passing = Arc::clone(&shared);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let there = *passing.there.lock().unwrap();
                let Ok(far) = TcpStream::connect(there) else {
                    continue;
                };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let passing = Arc::clone(&passing);
                    std::thread::spawn(move || passing.pass(from, to));
                }
            }
        });
        Relay { address, shared }
    }

    /// The port has moved.
    pub fn lead_to(&self, port: &Port) {
        *self.shared.there.lock().unwrap() = address_of(port);
    }

    /// The port's contact, but that the way to it leads through here. Its own card is there too, for it is
    /// what it proves.
    pub fn contact(&self, port: &Port) -> Contact {
        let mut contact = port.contact();
        if let Some(own) = contact.location.cards.first() {
            let mut card = own.clone();
            let (_, rest) = postcard::take_from_bytes::<Vec<SocketAddr>>(&own.bytes).unwrap();
            card.bytes = postcard::to_stdvec(&vec![self.address]).unwrap();
            card.bytes.extend_from_slice(rest);
            contact.location.cards.insert(0, card);
        }
        contact
    }

    /// All that has passed.
    pub fn recorded(&self) -> Vec<u8> {
        self.shared.recorded.lock().unwrap().clone()
    }

    /// Flips a bit of what passes next.
    pub fn alter(&self) {
        self.shared.alter.store(true, Ordering::Relaxed);
    }

    /// How many bits were flipped.
    pub fn altered(&self) -> usize {
        self.shared.altered.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.recorded
                .lock()
                .unwrap()
                .extend_from_slice(&buffer[..count]);
            if self.alter.swap(false, Ordering::Relaxed) {
                let nth = self.altered.fetch_add(1, Ordering::Relaxed);
                // Any bit of any byte: first ones, last ones, and those between.
                buffer[nth.wrapping_mul(7919) % count] ^= 1 << (nth % 8);
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

fn address_of(port: &Port) -> SocketAddr {
    let contact = port.contact();
    let card = contact.location.cards.first().expect("it is attached");
    let (addresses, _) = postcard::take_from_bytes::<Vec<SocketAddr>>(&card.bytes).unwrap();
    addresses[0]
}
