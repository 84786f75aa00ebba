//! Payload of the family `host_metrics`; its fields are those of `avro/host_metrics.avsc`.

use serde::{Deserialize, Serialize};

/// One reading of a machine: wide, and null wherever the event type does not measure a column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostMetrics {
    /// Load of all processors together, in percent of their sum (0 to 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Number of logical processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<i32>,
    /// Load average over 1 minute, in runnable processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_1: Option<f64>,
    /// Load average over 5 minutes, in runnable processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_5: Option<f64>,
    /// Load average over 15 minutes, in runnable processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_15: Option<f64>,
    /// Memory in use, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_used_bytes: Option<i64>,
    /// Memory installed, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_total_bytes: Option<i64>,
    /// Swap in use, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_used_bytes: Option<i64>,
    /// Swap configured, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_total_bytes: Option<i64>,
    /// Mount point or drive that the disk columns are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Space in use on the disk, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_used_bytes: Option<i64>,
    /// Size of the disk, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<i64>,
    /// Read rate of the disk, in bytes per second over the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes_per_s: Option<f64>,
    /// Write rate of the disk, in bytes per second over the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_write_bytes_per_s: Option<f64>,
    /// Network interface that the net columns are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_interface: Option<String>,
    /// Receive rate of the interface, in bytes per second over the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_bytes_per_s: Option<f64>,
    /// Send rate of the interface, in bytes per second over the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_bytes_per_s: Option<f64>,
    /// True if the interface has a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_up: Option<bool>,
    /// Name of the sensor, e.g. `temperature/cpu` or `gpu/0/load`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor: Option<String>,
    /// Reading of the sensor, in sensor_unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor_value: Option<f64>,
    /// Unit of sensor_value, e.g. `celsius` or `percent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor_unit: Option<String>,
    /// Name of the threshold that this reading crossed; null for ordinary readings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<String>,
    /// Length of the interval that the reading summarises, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<f64>,
    /// Number of measurements that the reading summarises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<i32>,
}
