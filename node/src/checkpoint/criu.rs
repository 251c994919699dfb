//! Running CRIU, and reading its complaints.
