//! `url_part`: a text as it stands in the query of an address.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
struct UrlPart {
    signature: Signature,
}

pub(super) fn url_part() -> Arc<ScalarUDF> {
    let signature = Signature::string(1, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(UrlPart { signature }))
}

impl ScalarUDFImpl for UrlPart {
    fn name(&self) -> &str {
        "url_part"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let texts = cast(&arrays[0], &DataType::Utf8)?;
        let texts = datafusion::common::cast::as_string_array(&texts)?;
        Ok(ColumnarValue::Array(encoded(texts)))
    }
}

fn encoded(texts: &StringArray) -> ArrayRef {
    let mut found = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    for text in texts {
        found.append_option(text.map(encode));
    }
    Arc::new(found.finish())
}

/// What RFC 3986 does not leave alone as `%XX`, byte by byte.
fn encode(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            found.push(char::from(byte));
        } else {
            found.push_str(&format!("%{byte:02X}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_plain_characters_are_escaped() {
        for (text, expected) in [("New York", "New%20York"), ("a-b_c.d~e", "a-b_c.d~e"), ("ä&=?", "%C3%A4%26%3D%3F")] {
            assert_eq!(encode(text), expected);
        }
    }
}
