"""What every layer stands on: values, boxes, dtypes, memory, text, errors."""
