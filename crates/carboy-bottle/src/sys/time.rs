//! The host's time zone.

/// A moment as the host's clocks show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime {
    /// Year.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: i32,
    /// Day of the month, 1 to 31.
    pub day: i32,
    /// Hour, 0 to 23.
    pub hour: i32,
    /// Minute.
    pub minute: i32,
    /// Second, 0 to 60.
    pub second: i32,
}

/// Seconds since 1970 in the host's time zone (`TZ`, `/etc/localtime`); `None` for a year that does not fit.
pub fn local_time(seconds: i64) -> Option<LocalTime> {
    // SAFETY: all-zero is a valid `tm`; both pointers are valid for the call, which keeps neither. It reads the
    // environment, which this program never changes.
    let tm = unsafe {
        let mut tm = std::mem::zeroed::<libc::tm>();
        if libc::localtime_r(&raw const seconds, &raw mut tm).is_null() {
            return None;
        }
        tm
    };
    Some(LocalTime {
        year: tm.tm_year.checked_add(1900)?,
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
    })
}
