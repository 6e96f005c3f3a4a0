//! The arguments of filelock's calls, and what is wrong with them.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyString};

use crate::options::{Patience, patience};

pub(super) fn patience_of(timeout: f64, blocking: bool) -> PyResult<Patience> {
    match (blocking, timeout) {
        (false, _) => Ok(Patience::Now),
        (true, timeout) if timeout < 0.0 => Ok(Patience::Forever),
        (true, timeout) => patience(Some(timeout)),
    }
}

/// A number of seconds. A str or a bool is none, though Python could make one of it.
fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if let Ok(value) = value.cast_exact::<PyFloat>() {
        return Ok(value.value());
    }
    let wrong = || -> PyResult<PyErr> {
        let class = value.get_type();
        let text = format!("{name} is a number of seconds, and {} is none", class.name()?);
        Ok(PyTypeError::new_err(text))
    };
    if value.is_instance_of::<PyBool>() || value.is_instance_of::<PyString>() {
        return Err(wrong()?);
    }
    match value.extract() {
        Ok(seconds) => Ok(seconds),
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
            Ok(if value.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        Err(_) => Err(wrong()?),
    }
}

pub(super) fn seconds_to_wait(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds = seconds("timeout", value)?;
    if seconds.is_nan() {
        let text = "timeout is a number of seconds: 0 is one attempt, any negative one no limit; nan is none";
        return Err(PyValueError::new_err(text));
    }
    Ok(seconds)
}

pub(super) fn interval(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds = seconds("poll_interval", value)?;
    if !seconds.is_finite() || seconds < 0.0 {
        let text = format!("poll_interval is a finite number of seconds from 0 on, not {seconds}");
        return Err(PyValueError::new_err(text));
    }
    Ok(seconds)
}

pub(super) fn yes_or_no(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.cast::<PyBool>().map(PyBoolMethods::is_true).map_err(|_| {
        let class = value.get_type();
        PyTypeError::new_err(format!("blocking is True or False, and no {class}"))
    })
}
