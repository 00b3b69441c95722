//! (stage intercept)
