//! What `ucx_perftest -f -v` prints.

use super::MIB;

/// Its final line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ucx {
    /// Of the median message.
    pub median_us: f64,
    /// Of all messages, 10^6 bytes a second; with two decimals of its own unit.
    pub bandwidth: f64,
    /// Of all messages, 10^6 a second.
    pub rate: f64,
}

impl Ucx {
    /// `iterations,median,average,overall latency,average,overall bandwidth,average,overall rate`:
    /// microseconds, 2^20 bytes a second, messages a second.
    pub fn read(output: &str) -> Option<Ucx> {
        let row = output.lines().rfind(|line| line.contains(','))?;
        let numbers = row.split(',').map(|word| word.trim().parse::<f64>());
        let numbers: Vec<f64> = numbers.collect::<Result<_, _>>().ok()?;
        let [_, median_us, _, _, _, bandwidth, _, rate] = numbers[..] else {
            return None;
        };
        Some(Ucx {
            median_us,
            bandwidth: bandwidth * MIB,
            rate: rate / 1e6,
        })
    }
}
