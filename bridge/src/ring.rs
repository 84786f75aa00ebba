//! The order in which PUBACKs may go.
//!
//! MQTT 5 (§4.6) wants PUBACKs in the order in which the PUBLISH packets came; Kafka confirms in any order.
//! So a message leaves the ring only from the front, once it is complete:
//!
//! ```text
//!   arrived    1   2   3   4   5        front
//!   complete   ✓       ✓   ✓              │
//!   released   1                          ▼   2 holds back 3 and 4
//! ```
//!
//! Packet identifiers belong to one connection: after a reconnect the broker sends again what was not
//! acknowledged and numbers it anew. An entry therefore carries the generation of its connection, and one of an
//! older generation leaves the ring without a PUBACK: its number may mean another message by now.

use std::collections::VecDeque;

/// A place in the ring: counts arrivals since the start, over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Entry<T> {
    generation: u64,
    packet_id: Option<u16>,
    cargo: T,
}

/// Messages in the order of arrival; see the module.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    entries: VecDeque<Entry<T>>,
    /// Ticket of the front entry.
    front: u64,
    generation: u64,
}

impl<T> Ring<T> {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), front: 0, generation: 0 }
    }

    /// Messages held, of all generations.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages that wait for a PUBACK on the present connection.
    pub(crate) fn is_settled(&self) -> bool {
        self.entries.back().is_none_or(|entry| entry.generation != self.generation)
    }

    /// The present connection has ended; what it brought is released without PUBACK from now on.
    pub(crate) fn next_generation(&mut self) {
        self.generation += 1;
    }

    /// A message came; `packet_id` is `None` at QoS 0.
    pub(crate) fn push(&mut self, packet_id: Option<u16>, cargo: T) -> Ticket {
        let ticket = Ticket(self.front + self.entries.len() as u64);
        self.entries.push_back(Entry { generation: self.generation, packet_id, cargo });
        ticket
    }

    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        let index = usize::try_from(ticket.0.checked_sub(self.front)?).ok()?;
        self.entries.get_mut(index).map(|entry| &mut entry.cargo)
    }

    /// Ticket of the front message, or of the next to come.
    pub(crate) fn front(&self) -> Ticket {
        Ticket(self.front)
    }

    /// The first ticket that has not been given away yet.
    pub(crate) fn end(&self) -> Ticket {
        Ticket(self.front + self.entries.len() as u64)
    }

    /// The ticket after `ticket`, or the front when that one has been released already.
    pub(crate) fn after(&self, ticket: Ticket) -> Ticket {
        Ticket((ticket.0 + 1).max(self.front))
    }

    /// The front message, and the packet identifier to acknowledge if its connection still stands.
    pub(crate) fn front_mut(&mut self) -> Option<(Option<u16>, &mut T)> {
        let generation = self.generation;
        let entry = self.entries.front_mut()?;
        let packet_id = entry.packet_id.filter(|_| entry.generation == generation);
        Some((packet_id, &mut entry.cargo))
    }

    /// Takes the front message out. The caller has sent its PUBACK, or need not.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let entry = self.entries.pop_front()?;
        self.front += 1;
        Some(entry.cargo)
    }

    /// Takes out, from `first` on, all messages that the broker will send again: those with a packet identifier.
    /// Tickets from `first` on then mean other messages.
    pub(crate) fn drop_redelivered(&mut self, first: Ticket, mut dropped: impl FnMut(T)) {
        let keep = usize::try_from(first.0.saturating_sub(self.front)).unwrap_or(usize::MAX);
        for entry in self.entries.split_off(keep.min(self.entries.len())) {
            if entry.packet_id.is_some() {
                dropped(entry.cargo);
            } else {
                self.entries.push_back(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Arrive,
        /// Complete the n-th of those still open, modulo their number.
        Complete(usize),
        Reconnect,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => Just(Step::Arrive),
            4 => any::<usize>().prop_map(Step::Complete),
            1 => Just(Step::Reconnect),
        ];
        proptest::collection::vec(step, 0..200)
    }

    /// What the broker side of one connection would see.
    #[derive(Default)]
    struct Connection {
        arrived: Vec<u16>,
        acknowledged: Vec<u16>,
    }

    proptest! {
        #[test]
        fn acknowledged_in_order_only_when_complete_and_never_across_connections(steps in steps()) {
            let mut ring: Ring<usize> = Ring::new();
            let mut complete = HashSet::new();
            let mut open: Vec<usize> = Vec::new();
            let mut released = Vec::new();
            let mut connection = Connection::default();
            let mut arrived = 0_usize;
            for step in steps {
                match step {
                    Step::Arrive => {
                        // Numbers start again at 1 on each connection, so reuse across connections is the rule.
                        let packet_id = connection.arrived.len() as u16 + 1;
                        connection.arrived.push(packet_id);
                        ring.push(Some(packet_id), arrived);
                        open.push(arrived);
                        arrived += 1;
                    }
                    Step::Complete(n) if !open.is_empty() => {
                        complete.insert(open.swap_remove(n % open.len()));
                    }
                    Step::Complete(_) => {}
                    Step::Reconnect => {
                        ring.next_generation();
                        connection = Connection::default();
                    }
                }
                while let Some((packet_id, &mut cargo)) = ring.front_mut() {
                    if !complete.contains(&cargo) {
                        break;
                    }
                    connection.acknowledged.extend(packet_id);
                    prop_assert_eq!(ring.pop(), Some(cargo));
                    released.push(cargo);
                }
                // In the order of arrival on this connection, without a gap.
                prop_assert!(connection.arrived.starts_with(&connection.acknowledged));
            }
            // Every complete prefix came out, once, in order.
            let expected: Vec<usize> = (0..arrived).take_while(|cargo| complete.contains(cargo)).collect();
            prop_assert_eq!(released, expected);
        }

        #[test]
        fn tickets_find_their_message_until_it_is_released(arrivals in 1..50_usize, released in 0..50_usize) {
            let mut ring = Ring::new();
            let tickets: Vec<Ticket> = (0..arrivals).map(|cargo| ring.push(None, cargo)).collect();
            for _ in 0..released.min(arrivals) {
                ring.pop();
            }
            for (cargo, ticket) in tickets.iter().enumerate() {
                let expected = (cargo >= released).then_some(cargo);
                prop_assert_eq!(ring.get_mut(*ticket).copied(), expected);
            }
            prop_assert!(ring.get_mut(ring.end()).is_none());
        }
    }

    #[test]
    fn what_the_broker_sends_again_is_dropped_and_the_rest_kept() {
        let mut ring = Ring::new();
        ring.push(Some(1), 'a');
        let second = ring.push(Some(2), 'b');
        ring.push(None, 'c');
        ring.push(Some(3), 'd');
        let mut dropped = Vec::new();
        ring.drop_redelivered(second, |cargo| dropped.push(cargo));
        assert_eq!(dropped, ['b', 'd']);
        assert_eq!(ring.len(), 2);
        assert_eq!(ring.get_mut(second), Some(&mut 'c'));
        assert!(ring.is_empty() || !ring.is_settled());
        ring.next_generation();
        assert!(ring.is_settled());
    }
}
