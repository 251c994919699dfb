//! Shared scaffolding.
