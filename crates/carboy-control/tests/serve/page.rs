//! The page's own text: nothing inline, nothing of others, nothing that makes markup of words.
