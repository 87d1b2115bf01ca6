//! Pseudo-terminals.

use std::os::fd::{AsFd, AsRawFd};

use crate::{Error, Result};

/// Tells the programs on the terminal its size in characters.
pub fn resize(master: &impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for the length of the call; TIOCSWINSZ reads one `winsize`, which lives on this stack.
    if unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) } < 0 {
        return Err(Error::call("resize the terminal", std::io::Error::last_os_error()));
    }
    Ok(())
}

/// Columns and rows.
pub fn size(terminal: &impl AsFd) -> Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for the length of the call; TIOCGWINSZ writes one `winsize`, which lives on this stack.
    if unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) } < 0 {
        return Err(Error::call("ask the terminal for its size", std::io::Error::last_os_error()));
    }
    Ok((size.ws_col, size.ws_row))
}
