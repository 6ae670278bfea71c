package wire

import (
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Namespace is the XML name space of every reply but <Error>.
const Namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

// ContentTypeXML is the content type of XML replies.
const ContentTypeXML = "application/xml"

const xmlHeader = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

// encoderBytes is how much an [Encoder] gathers before it writes, and so the
// largest reply that goes out with a Content-Length.
const encoderBytes = 64 << 10

// buffers recycles the buffers of encoders, which are of one size.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, encoderBytes+8<<10)
	return &b
}}

// Encoder writes one XML document as a stream: memory does not grow with the
// length of a list. Errors of the writer stick and are returned by Close. It is
// not safe for concurrent use.
type Encoder struct {
	w       io.Writer
	buf     *[]byte
	b       []byte
	root    string
	url     bool // keys are to be written URL-encoded
	flushed bool
	err     error
}

// NewEncoder begins a document with the element root. With encodeKeys the
// methods for keys escape as encoding-type=url asks.
func NewEncoder(w io.Writer, root string, encodeKeys bool) *Encoder {
	buf := buffers.Get().(*[]byte)
	e := &Encoder{w: w, buf: buf, b: (*buf)[:0], root: root, url: encodeKeys}
	e.b = append(e.b, xmlHeader...)
	e.b = append(e.b, '<')
	e.b = append(e.b, root...)
	e.b = append(e.b, ` xmlns="`+Namespace+`">`...)
	return e
}

// Close ends the document. beforeFirst, if not nil, is called with the length
// of the document when nothing was written yet, so that the caller can set
// Content-Length. The encoder must not be used afterwards.
func (e *Encoder) Close(beforeFirst func(length int)) error {
	e.Closing(e.root)
	if !e.flushed && beforeFirst != nil {
		beforeFirst(len(e.b))
	}
	e.flush()
	if cap(e.b) <= 2*encoderBytes {
		*e.buf = e.b[:0]
		buffers.Put(e.buf)
	}
	e.b, e.buf = nil, nil
	return e.err
}

func (e *Encoder) flush() {
	if e.err == nil {
		_, e.err = e.w.Write(e.b)
	}
	e.flushed = true
	e.b = e.b[:0]
}

func (e *Encoder) room() {
	if len(e.b) >= encoderBytes {
		e.flush()
	}
}

// Opening writes <name>.
func (e *Encoder) Opening(name string) {
	e.b = append(e.b, '<')
	e.b = append(e.b, name...)
	e.b = append(e.b, '>')
}

// Closing writes </name>.
func (e *Encoder) Closing(name string) {
	e.b = append(e.b, '<', '/')
	e.b = append(e.b, name...)
	e.b = append(e.b, '>')
	e.room()
}

// Text writes <name>value</name>, escaped.
func (e *Encoder) Text(name, value string) { e.b = appendElement(e.b, name, value) }

// Optional writes the element unless value is empty.
func (e *Encoder) Optional(name, value string) {
	if value != "" {
		e.Text(name, value)
	}
}

// Key writes an element whose text is a key, prefix, delimiter or marker:
// URL-encoded if the request asked for that.
func (e *Encoder) Key(name, value string) {
	if !e.url {
		e.Text(name, value)
		return
	}
	e.Opening(name)
	e.b = AppendURLEncoded(e.b, value) // leaves nothing that XML would escape
	e.closeTag(name)
}

// Int writes an element with a decimal number.
func (e *Encoder) Int(name string, v int64) {
	e.Opening(name)
	e.b = strconv.AppendInt(e.b, v, 10)
	e.closeTag(name)
}

// Bool writes an element with true or false.
func (e *Encoder) Bool(name string, v bool) {
	e.Opening(name)
	e.b = strconv.AppendBool(e.b, v)
	e.closeTag(name)
}

// Time writes an element with a time in S3's XML form: UTC with milliseconds.
func (e *Encoder) Time(name string, t time.Time) {
	e.Opening(name)
	e.b = AppendTime(e.b, t)
	e.closeTag(name)
}

// ETag writes an ETag element, the quotes included.
func (e *Encoder) ETag(etag string) {
	e.b = append(e.b, "<ETag>&quot;"...)
	e.b = appendEscaped(e.b, etag)
	e.b = append(e.b, "&quot;</ETag>"...)
}

func (e *Encoder) closeTag(name string) {
	e.b = append(e.b, '<', '/')
	e.b = append(e.b, name...)
	e.b = append(e.b, '>')
}

func appendElement(b []byte, name, value string) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = appendEscaped(b, value)
	b = append(b, '<', '/')
	b = append(b, name...)
	return append(b, '>')
}

// plain[c] says that byte c goes into XML text as it is. Bytes from 0x80 are
// looked at as runes.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x7f; c++ {
		t[c] = true
	}
	for _, c := range `&<>"'` {
		t[c] = false
	}
	return t
}()

// legalText replaces what XML 1.0 has no form for by U+FFFD.
func legalText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return utf8.RuneError
		}
		return r
	}, s)
}

// appendEscaped appends s as XML text. Control characters become character
// references, as AWS writes them in lists: XML 1.0 has no legal form for most
// of them, a strict parser stops, and that is better than a key that is not the
// key. Clients that list such keys ask for encoding-type=url. Bytes that are
// not UTF-8 become U+FFFD.
func appendEscaped(b []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		size := 1
		var ref string
		switch {
		case c >= utf8.RuneSelf:
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				if r != 0xFFFE && r != 0xFFFF {
					i += size
					continue
				}
				ref = "&#x" + strconv.FormatInt(int64(r), 16) + ";"
			} else {
				ref = "\uFFFD"
			}
		case c == '&':
			ref = "&amp;"
		case c == '<':
			ref = "&lt;"
		case c == '>':
			ref = "&gt;"
		case c == '"':
			ref = "&quot;"
		case c == '\'':
			ref = "&#39;"
		default:
			ref = "&#x" + strconv.FormatInt(int64(c), 16) + ";"
		}
		b = append(b, s[from:i]...)
		b = append(b, ref...)
		i += size
		from = i
	}
	return append(b, s[from:]...)
}

const upperHex = "0123456789ABCDEF"

// AppendURLEncoded appends s as encoding-type=url wants keys: UTF-8 bytes
// percent-encoded but for letters, digits, '-', '_', '.', '*' and '/'.
func AppendURLEncoded(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '*', c == '/':
			b = append(b, c)
		default:
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

// URLEncode is [AppendURLEncoded] as a string.
func URLEncode(s string) string { return string(AppendURLEncoded(nil, s)) }
