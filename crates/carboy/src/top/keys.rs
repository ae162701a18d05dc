//! What was pressed, as far as the dashboard knows it.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEventKind};

/// One thing that a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Ctrl(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Tab,
    Esc,
    Backspace,
    /// The left button, in column and row.
    Click(u16, u16),
    /// The window has another size.
    Resized,
}

impl Key {
    /// Of an event of the terminal's; `None` of those that mean nothing here.
    pub fn of(event: &Event) -> Option<Key> {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => of_key(key),
            Event::Mouse(mouse) => {
                if mouse.kind == MouseEventKind::Down(MouseButton::Left) {
                    Some(Key::Click(mouse.column, mouse.row))
                } else if mouse.kind == MouseEventKind::ScrollUp {
                    Some(Key::Up)
                } else {
                    (mouse.kind == MouseEventKind::ScrollDown).then_some(Key::Down)
                }
            }
            Event::Resize(..) => Some(Key::Resized),
            Event::Key(_) | Event::FocusGained | Event::FocusLost | Event::Paste(_) => None,
        }
    }
}

fn of_key(key: &KeyEvent) -> Option<Key> {
    const PLAIN: [(KeyCode, Key); 12] = [
        (KeyCode::Up, Key::Up),
        (KeyCode::Down, Key::Down),
        (KeyCode::PageUp, Key::PageUp),
        (KeyCode::PageDown, Key::PageDown),
        (KeyCode::Home, Key::Home),
        (KeyCode::End, Key::End),
        (KeyCode::Enter, Key::Enter),
        (KeyCode::Tab, Key::Tab),
        (KeyCode::BackTab, Key::Tab),
        (KeyCode::Esc, Key::Esc),
        (KeyCode::Backspace, Key::Backspace),
        (KeyCode::Delete, Key::Backspace),
    ];
    if let KeyCode::Char(c) = key.code {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Key::Ctrl(c.to_ascii_lowercase()));
        }
        return (!key.modifiers.contains(KeyModifiers::ALT)).then_some(Key::Char(c));
    }
    PLAIN.iter().find(|(code, _)| *code == key.code).map(|(_, key)| *key)
}
