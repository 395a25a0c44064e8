//! Which of a rule's backends a request belongs to: turns, cohorts, sessions, canaries.
