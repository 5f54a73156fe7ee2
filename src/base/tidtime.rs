//! The time stamp inside a tid.
//!
//! High 32 bits: minutes in a calendar whose months all have 31 days, from 1900-01-01. Low 32 bits: seconds
//! within the minute, scaled so that 60 s is 2^32; one unit is about 14 ns. A tid may name a day that does
//! not exist (a writer with a slow clock counts up from its last tid): shown, never refused.
//!
//! Nobody reads a clock here: times are arguments and results.

use super::Tid;

/// Time since 1970-01-01 UTC; seconds are negative before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime {
    /// Whole seconds, rounded down.
    pub sec: i64,
    /// Nanoseconds above `sec`, 0..1e9.
    pub nsec: u32,
}

impl Tid {
    /// Calendar fields: year, month 1..=12, day 1..=31, hour, minute.
    fn fields(self) -> (i64, i64, i64, i64, i64) {
        #[allow(
            clippy::cast_possible_wrap,
            reason = "the high half of a u64 fits an i64"
        )]
        let t = (self.0 >> 32) as i64;
        let (day, month) = (t / 1440 % 31 + 1, t / 44640 % 12 + 1);
        (t / 535_680 + 1900, month, day, t / 60 % 24, t % 60)
    }

    /// The moment this tid stands for. A day beyond its month runs into the next one.
    pub fn time(self) -> UnixTime {
        let (year, month, day, hour, minute) = self.fields();
        let low = u128::from(self.0 & 0xffff_ffff);
        let ns_in_minute = (low * 60 * 1_000_000_000) >> 32;
        let sec_in_minute = i64::try_from(ns_in_minute / 1_000_000_000).expect("below 60");
        let days = days_from_civil(year, month, 1) + day - 1;
        UnixTime {
            sec: ((days * 24 + hour) * 60 + minute) * 60 + sec_in_minute,
            nsec: u32::try_from(ns_in_minute % 1_000_000_000).expect("below 1e9"),
        }
    }

    /// The tid of a moment; `None` outside the years 1900 to 5908.
    pub fn from_time(time: UnixTime) -> Option<Self> {
        let (days, sec_of_day) = (time.sec.div_euclid(86400), time.sec.rem_euclid(86400));
        let (year, month, day) = civil_from_days(days);
        let minutes = ((((year - 1900) * 12 + month - 1) * 31 + day - 1) * 24 + sec_of_day / 3600)
            * 60
            + sec_of_day / 60 % 60;
        let high = u64::try_from(minutes).ok().filter(|&m| m < 1 << 31)?;
        let ns = u128::try_from(sec_of_day % 60).ok()? * 1_000_000_000 + u128::from(time.nsec);
        let low = u64::try_from(((ns << 32) + 30_000_000_000) / 60_000_000_000).ok()?;
        Some(Self((high << 32) + low.min(0xffff_ffff)))
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day comes last.
    let y = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + day_of_year - 719_468
}

/// The inverse of `days_from_civil`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (
        doy - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_tids_decode_to_the_nanosecond() {
        for (tid, sec, nsec) in [
            (0x0000_0000_0000_0000, -2_208_988_800, 0),
            (0x0285_cbac_258b_f266, 284_245_208, 800_000_185),
            (0x0285_cbad_27ae_14e6, 284_245_269, 300_001_496),
            (0x0379_69f7_22a5_3488, 1_224_825_068, 119_999_878),
            (0x03b8_4285_d71c_57dd, 1_467_366_110, 416_573_989),
            (0x03ca_a842_75fc_1166, 1_538_411_667, 652_650_112),
            (0x0404_bfc5_fdad_fd00, 1_762_777_319, 456_166_028),
        ] {
            assert_eq!(Tid(tid).time(), UnixTime { sec, nsec }, "{tid:016x}");
        }
        let _ = Tid(u64::MAX).time(); // shown, never refused
    }

    #[test]
    fn encoding_inverts_decoding_within_one_unit() {
        let mut seed = 1u64;
        for _ in 0..10_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let time = UnixTime {
                sec: i64::try_from((seed >> 20) % 4_000_000_000).expect("small"),
                nsec: u32::try_from(seed % 1_000_000_000).expect("small"),
            };
            let tid = Tid::from_time(time).expect("in range");
            let back = Tid::from_time(tid.time()).expect("in range");
            assert!(tid.0.abs_diff(back.0) <= 1, "{time:?}");
        }
    }
}
