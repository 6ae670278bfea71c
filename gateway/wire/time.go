package wire

import (
	"net/http"
	"strings"
	"time"
)

// AppendTime appends t as XML bodies carry it: UTC, milliseconds, such as
// 2009-10-12T17:50:30.000Z.
func AppendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
}

// HTTPTime formats t as headers carry it, in seconds and GMT.
func HTTPTime(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// timeLayouts are the forms in which clients send times.
var timeLayouts = []string{
	http.TimeFormat,
	time.RFC3339Nano, // takes times without fraction too
	time.RFC1123,
	time.RFC1123Z,
	time.RFC850,
	time.ANSIC,
	"20060102T150405Z",
	"2006-01-02T15:04:05", // without zone: UTC
}

// ParseTime parses a time of a header or an XML body in any of the forms that
// clients use. It reports false for anything else.
func ParseTime(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if len(s) > 64 {
		return time.Time{}, false
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
