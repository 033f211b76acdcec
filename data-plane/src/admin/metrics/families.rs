//! Writes whole families of series.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet},
    metrics::MetricType,
};

/// A histogram's sum, and its counts by bucket.
pub(super) struct Counted {
    pub(super) sum: f64,
    pub(super) counts: Vec<u64>,
}

/// Writes whole families of series.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        series: impl IntoIterator<Item = ([impl AsRef<str>; N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (values, count) in series {
            let pairs = pairs(labels, &values);
            family.encode_family(&pairs)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        series: impl IntoIterator<Item = ([impl AsRef<str>; N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (values, value) in series {
            let pairs = pairs(labels, &values);
            family.encode_family(&pairs)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Durations by the first of `bounds` that is not exceeded, and those that exceed all.
    pub(super) fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        bounds: &[f64],
        series: impl IntoIterator<Item = ([impl AsRef<str>; N], Counted)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (values, Counted { sum, counts }) in series {
            let bounds = bounds.iter().copied().chain([f64::MAX]);
            let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
            let pairs = pairs(labels, &values);
            let mut encoder = family.encode_family(&pairs)?;
            encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)?;
        }
        Ok(())
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    /// A counter of what comes in fractions.
    pub(super) fn fraction(&mut self, name: &str, help: &str, count: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    /// The one series of a family that there is in any case.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }
}

fn pairs<'a, const N: usize>(
    labels: [&'a str; N],
    values: &'a [impl AsRef<str>; N],
) -> [(&'a str, &'a str); N] {
    std::array::from_fn(|index| (labels[index], values[index].as_ref()))
}
