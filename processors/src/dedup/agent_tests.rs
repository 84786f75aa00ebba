use super::*;
use crate::dedup::{MAX_AHEAD, Seen};
use crate::engine::MAX_CHUNK_BYTES;

fn round_trip(agent: &Agent) -> Agent {
    let mut out = Vec::new();
    agent.write(&mut out);
    Agent::read(Arc::clone(&agent.id), &out).unwrap()
}

#[test]
fn a_cut_row_is_refused() {
    let mut agent = Agent::new(Arc::from("a"), 0);
    (agent.back, agent.backlog, agent.foreign_ids) = (5, 6, Share { hour: 472_222, kept: 1_000 });
    (agent.earliest, agent.latest, agent.forgotten) = (3, 4_000, vec![1, 300, 1 << 50]);
    let session = agent.session(7, 0).unwrap();
    session.lane(0, 0, 0).see(3, 4, 5);
    session.lane(0, 0, 0).mark(9, 4, 5);
    session.lane(0, 0, 0).explain(5, 6, true, 5);
    assert_eq!(round_trip(&agent), agent);
    let mut bytes = Vec::new();
    agent.write(&mut bytes);
    for end in 0..bytes.len() {
        assert!(Agent::read(Arc::from("a"), &bytes[..end]).is_none(), "cut at {end}");
    }
}

#[test]
fn only_complete_sessions_are_forgotten_and_too_many_become_uncertain() {
    let mut agent = Agent::new(Arc::from("a"), 0);
    for session in 1..=i64::try_from(MAX_SESSIONS).unwrap() + 1 {
        agent.session(session, 0).unwrap();
    }
    assert_eq!((agent.sessions.len(), agent.uncertain), (MAX_SESSIONS, 1));
    agent.forget_complete();
    assert!(agent.forgotten.is_empty());
    agent.sessions[0].tails = [-1, -1, -1];
    agent.sessions[3].tails = [-1, -1, -1];
    agent.forget_complete();
    assert_eq!((agent.forgotten.as_slice(), agent.sessions[0].session), ([2, 5].as_slice(), 3));
    assert_eq!(
        (agent.uncertain, agent.is_open(1), agent.is_open(2), agent.is_open(4)),
        (1, false, false, true)
    );
    assert_eq!(round_trip(&agent), agent);
    // Who makes room although it is complete is still known.
    agent.sessions[0].tails = [-1, -1, -1];
    (agent.turns, agent.back) = (2, 77);
    for session in 100..103 {
        agent.session(session, 0).unwrap();
    }
    assert_eq!((agent.forgotten.as_slice(), agent.uncertain, agent.turns), ([2, 3, 5].as_slice(), 1, 0));
    assert_eq!(round_trip(&agent), agent);
}

#[test]
fn sessions_never_outgrow_their_bound_in_any_order() {
    let orders: [Box<dyn Iterator<Item = i64>>; 3] =
        [Box::new((1..200).rev()), Box::new(1..200), Box::new((0..200).map(|at| 1 + (at * 77) % 199))];
    for order in orders {
        let mut agent = Agent::new(Arc::from("a"), 0);
        for session in order {
            let known = agent.session(session, 0).map(|known| known.session);
            assert!(known.is_none_or(|known| known == session));
            assert_eq!(known.is_none(), session <= agent.uncertain, "{session}");
            assert!(agent.sessions.len() <= MAX_SESSIONS);
            assert!(agent.sessions.is_sorted_by_key(|session| session.session));
        }
        assert_eq!(agent.sessions.last().unwrap().session, 199);
    }
}

#[test]
fn a_complete_session_of_which_not_all_is_known_is_uncertain() {
    let mut agent = Agent::new(Arc::from("a"), 0);
    agent.floor = 5;
    let session = agent.session(5, 0).unwrap();
    assert!(session.unsure);
    assert_eq!(session.lane(1, 8, 0).see(8, 0, 0), Seen::Fresh);
    session.set_tails([(1, 8)].into_iter());
    assert!(!agent.session(6, 0).unwrap().unsure);
    agent.forget_complete();
    assert_eq!((agent.uncertain, agent.forgotten.len(), agent.sessions.len()), (5, 0, 1));
}

#[test]
fn tails_are_believed_within_reason_and_never_below_what_was_seen() {
    let mut agent = Agent::new(Arc::from("a"), 0);
    let session = agent.session(5, 0).unwrap();
    session.lane(1, 0, 0).see(8, 0, 0);
    assert_eq!(session.set_tails([(0, MAX_AHEAD), (1, 3), (2, i64::MAX)].into_iter()), 2);
    assert_eq!(session.tails, [UNTOLD, 8, UNTOLD]);
    assert_eq!(session.set_tails([(0, MAX_AHEAD - 1), (1, i64::MIN)].into_iter()), 1);
    assert_eq!(session.tails, [MAX_AHEAD - 1, UNTOLD, -1]);
    assert_eq!(session.set_tails([(0, -1), (1, 9)].into_iter()), 0);
    assert_eq!(session.tails, [-1, 9, -1]);
    assert_eq!(session.set_tails([].into_iter()), 0);
    assert_eq!(session.tails, [-1, 8, -1]);
}

/// The worst that one agent can make of itself still fits into one chunk: a row that did not would stop the worker.
#[test]
fn the_row_of_a_hostile_agent_fits_into_a_chunk() {
    let mut agent = Agent::new(Arc::from("x".repeat(1_000)), i64::MAX / 2);
    agent.forgotten = (1..=MAX_FORGOTTEN as i64).map(|at| at << 47).collect();
    for number in 0..40 {
        agent.session((1 << 52) + number, i64::MAX / 2);
    }
    // Lanes of all sessions in turn, each number as far ahead as is believed, times that jump.
    for at in 0..2 * MAX_INTERVALS {
        let (session, lane) = (at % MAX_SESSIONS, at / MAX_SESSIONS % LANES);
        let number = agent.sessions[session].session;
        let quiet = (at as i64) << 36;
        let lane = agent.session(number, quiet).unwrap().lane(lane, 0, quiet);
        let seq = lane.highest() + (MAX_AHEAD >> 1) - 1;
        if at % 3 == 0 {
            lane.explain(seq, seq + (MAX_AHEAD >> 1), true, quiet);
        } else {
            lane.see(seq, (at as i64).wrapping_mul(0x1234_5678_9abc_def1), quiet);
        }
        let grown = lane.intervals();
        agent.bound_intervals(grown);
    }
    let all: usize = agent.sessions.iter().map(Session::intervals).sum();
    assert_eq!(all, MAX_INTERVALS);
    let mut row = Vec::new();
    agent.write(&mut row);
    let room = MAX_CHUNK_BYTES - 8 * 1_024;
    assert!(row.len() + agent.id.len() < room, "{} of {room} bytes", row.len());
    assert_eq!(round_trip(&agent), agent);
}

#[test]
fn the_largest_lane_gives_up_first() {
    let mut agent = Agent::new(Arc::from("a"), 0);
    let session = agent.session(1, 0).unwrap();
    session.lane(0, 0, 0).see(5, 0, 0);
    for at in 0..=MAX_INTERVALS as i64 {
        let lane = agent.session(1, 0).unwrap().lane(2, 0, 0);
        lane.see(2 * at + 1, 0, 0);
        let grown = lane.intervals();
        agent.bound_intervals(grown);
    }
    let lanes = &mut agent.sessions[0].lanes;
    assert_eq!(lanes[0].as_mut().unwrap().see(2, 0, 0), Seen::Fresh);
    let full = lanes[2].as_mut().unwrap();
    assert_eq!(full.see(0, 0, 0), Seen::Uncertain);
    assert_eq!(full.see(4, 0, 0), Seen::Fresh);
    assert_eq!(full.intervals(), MAX_INTERVALS - 2);
}
