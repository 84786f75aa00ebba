//! The JSON texts inside [`crate::event::AgentStatus`]: how an agent's sequence explains itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::Lane;

/// "This lane is complete up to this time and seq": one element of the column `marks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneMark {
    /// Which lane.
    pub lane: Lane,
    /// Last seq given out in the lane.
    pub seq: i64,
    /// No event of the lane after `seq` has an event time at or before this, in µs.
    pub time: i64,
}

/// Last seq of each lane of the previous session: the column `tails`.
pub type Tails = BTreeMap<Lane, i64>;

/// Lanes in use: the column `lanes`.
pub type Lanes = Vec<Lane>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_on_the_wire() {
        let tails = Tails::from([(Lane::Critical, 3), (Lane::Bulk, 90)]);
        let text = serde_json::to_string(&tails).unwrap();
        assert_eq!(text, r#"{"critical":3,"bulk":90}"#);
        assert_eq!(serde_json::from_str::<Tails>(&text).unwrap(), tails);

        let marks = vec![LaneMark { lane: Lane::Normal, seq: 17, time: 1_732_147_201_000_000 }];
        let text = serde_json::to_string(&marks).unwrap();
        assert_eq!(text, r#"[{"lane":"normal","seq":17,"time":1732147201000000}]"#);
        assert_eq!(serde_json::from_str::<Vec<LaneMark>>(&text).unwrap(), marks);
    }
}
