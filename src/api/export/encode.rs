//! Batches → bytes of a format, piece by piece.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::super::rows::{RowError, RowKey, cells, write_text};
use super::Format;
use super::typed::Typed;

/// Rows and bytes after which a part of a Parquet file goes out; it stays in memory until then.
const ROW_GROUP_ROWS: usize = 1 << 20;
const ROW_GROUP_BYTES: usize = 16 << 20;

/// Writes rows.
pub(super) struct Encoder(Kind);

enum Kind {
    Lines(Vec<RowKey>),
    Csv { keys: Vec<RowKey>, begun: bool },
    Arrow { typed: Typed, writer: Box<StreamWriter<Sink>>, sink: Sink },
    Parquet { typed: Typed, writer: Box<ArrowWriter<Sink>>, sink: Sink },
}

/// Rows cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write rows: {0}")]
pub(super) enum EncodeError {
    Row(#[from] RowError),
    Arrow(#[from] ArrowError),
    Parquet(#[from] ParquetError),
}

impl Encoder {
    /// For rows of these keys out of batches of these columns.
    ///
    /// # Errors
    /// A column has no place in the format.
    pub(super) fn new(format: Format, keys: Vec<RowKey>, columns: &Schema) -> Result<Self, EncodeError> {
        let sink = Sink::default();
        Ok(Self(match format {
            // A whole answer in JSON is no export.
            Format::Json | Format::Lines => Kind::Lines(keys),
            Format::Csv => Kind::Csv { keys, begun: false },
            Format::Arrow => {
                let typed = Typed::new(keys, columns)?;
                let writer = Box::new(StreamWriter::try_new(sink.clone(), &typed.schema)?);
                Kind::Arrow { typed, writer, sink }
            }
            Format::Parquet => {
                let typed = Typed::new(keys, columns)?;
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
                    .build();
                let writer = ArrowWriter::try_new(sink.clone(), Arc::clone(&typed.schema), Some(properties))?;
                Kind::Parquet { typed, writer: Box::new(writer), sink }
            }
        }))
    }

    /// The bytes that a batch adds; maybe none yet.
    ///
    /// # Errors
    /// The batch does not fit.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        match &mut self.0 {
            Kind::Lines(keys) => write_lines(&mut out, keys, batch)?,
            Kind::Csv { keys, begun } => {
                if !std::mem::replace(begun, true) {
                    write_header(&mut out, keys);
                }
                write_records(&mut out, keys, batch)?;
            }
            Kind::Arrow { typed, writer, sink } => {
                writer.write(&typed.convert(batch)?)?;
                return Ok(sink.take());
            }
            Kind::Parquet { typed, writer, sink } => {
                writer.write(&typed.convert(batch)?)?;
                return Ok(sink.take());
            }
        }
        Ok(out)
    }

    /// The last bytes.
    ///
    /// # Errors
    /// The format cannot be finished.
    pub(super) fn finish(self) -> Result<Vec<u8>, EncodeError> {
        match self.0 {
            Kind::Lines(_) => Ok(Vec::new()),
            Kind::Csv { begun: true, .. } => Ok(Vec::new()),
            Kind::Csv { keys, begun: false } => {
                let mut out = Vec::new();
                write_header(&mut out, &keys);
                Ok(out)
            }
            Kind::Arrow { mut writer, sink, .. } => {
                writer.finish()?;
                Ok(sink.take())
            }
            Kind::Parquet { writer, sink, .. } => {
                writer.close()?;
                Ok(sink.take())
            }
        }
    }
}

/// A JSON object a line, as in the rows of JSON answers.
fn write_lines(out: &mut Vec<u8>, keys: &[RowKey], batch: &RecordBatch) -> Result<(), RowError> {
    let cells = cells(keys, batch)?;
    for row in 0..batch.num_rows() {
        for (i, (key, cell)) in keys.iter().zip(&cells).enumerate() {
            out.push(if i == 0 { b'{' } else { b',' });
            write_text(out, &key.name);
            out.push(b':');
            cell.write(out, row);
        }
        out.extend_from_slice(if keys.is_empty() { b"{}\n" } else { b"}\n" });
    }
    Ok(())
}

fn write_header(out: &mut Vec<u8>, keys: &[RowKey]) {
    for (i, key) in keys.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_field(out, &key.name);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_records(out: &mut Vec<u8>, keys: &[RowKey], batch: &RecordBatch) -> Result<(), RowError> {
    let cells = cells(keys, batch)?;
    for row in 0..batch.num_rows() {
        for (i, cell) in cells.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            // Nothing at all is NULL, an empty text is quoted.
            if let Some(text) = cell.plain(row) {
                write_field(out, &text);
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

/// A field of RFC 4180, quoted where it must be.
fn write_field(out: &mut Vec<u8>, text: &str) {
    let quoted = text.is_empty() || text.contains([',', '"', '\r', '\n']);
    if !quoted {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

/// Takes what a writer writes until it is taken from here.
#[derive(Debug, Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.lock())
    }

    /// Bytes are whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, BooleanArray, Decimal128Array, Float64Array, StringArray, TimestampMicrosecondArray};
    use arrow::ipc::reader::StreamReader;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::super::rows::Values;
    use super::*;

    fn batch() -> RecordBatch {
        let money = Decimal128Array::from(vec![Some(-150), None]).with_precision_and_scale(10, 2).expect("it fits");
        RecordBatch::try_from_iter([
            ("a", Arc::new(StringArray::from(vec![Some("say \"hi\", you\n"), Some("")])) as ArrayRef),
            ("b", Arc::new(money) as ArrayRef),
            ("c", Arc::new(BooleanArray::from(vec![Some(true), None])) as ArrayRef),
            ("d", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_999), None])) as ArrayRef),
            ("e", Arc::new(Float64Array::from(vec![Some(1e21), Some(0.1)])) as ArrayRef),
        ])
        .expect("columns of one length")
    }

    fn keys() -> Vec<RowKey> {
        let names = ["o.a", "o.b", "o.c", "o.d", "o.e"];
        let key =
            |(i, name): (usize, &&str)| RowKey { name: (*name).to_owned(), values: Values::Column(i), time: false };
        names.iter().enumerate().map(key).collect()
    }

    /// All pieces of so many batches.
    fn encode(format: Format, batches: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(format, keys(), &batch().schema()).expect("plain columns");
        let mut out: Vec<u8> = (0..batches).flat_map(|_| encoder.add(&batch()).expect("written")).collect();
        out.extend(encoder.finish().expect("finished"));
        out
    }

    #[test]
    fn lines_are_the_rows_of_json_answers() {
        let text = String::from_utf8(encode(Format::Lines, 1)).expect("text");
        let first = r#"{"o.a":"say \"hi\", you\n","o.b":"-1.50","o.c":true,"o.d":"1970-01-01T00:00:00.001","o.e":"1000000000000000000000"}"#;
        let second = r#"{"o.a":"","o.b":null,"o.c":null,"o.d":null,"o.e":"0.1"}"#;
        assert_eq!(text, format!("{first}\n{second}\n"));
        assert_eq!(encode(Format::Lines, 0), b"");
    }

    #[test]
    fn csv_tells_null_from_nothing() {
        let header = "o.a,o.b,o.c,o.d,o.e\r\n";
        let rows =
            "\"say \"\"hi\"\", you\n\",-1.50,true,1970-01-01T00:00:00.001,1000000000000000000000\r\n\"\",,,,0.1\r\n";
        let text = |batches| String::from_utf8(encode(Format::Csv, batches)).expect("text");
        assert_eq!(text(2), format!("{header}{rows}{rows}"));
        assert_eq!(text(0), header);
    }

    #[test]
    fn arrow_and_parquet_are_read_back() {
        for batches in [0, 1, 3] {
            let bytes = encode(Format::Arrow, batches);
            let reader = StreamReader::try_new(io::Cursor::new(bytes), None).expect("a stream");
            let rows: usize = reader.map(|batch| batch.expect("a batch").num_rows()).sum();
            assert_eq!(rows, 2 * batches);
            let bytes = bytes::Bytes::from(encode(Format::Parquet, batches));
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("a file");
            assert_eq!(reader.schema().field(3).name(), "o.d");
            let rows: usize = reader.build().expect("a reader").map(|batch| batch.expect("a batch").num_rows()).sum();
            assert_eq!(rows, 2 * batches);
        }
        // Cut short it is no stream and no file.
        let mut bytes = encode(Format::Parquet, 1);
        bytes.truncate(bytes.len() - 1);
        assert!(ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).is_err());
    }
}
