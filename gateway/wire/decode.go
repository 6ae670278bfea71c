package wire

import (
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// Limits of request bodies. Those in numbers are S3's; those in bytes leave
// room for the longest list of the longest keys with every character escaped
// in a common way.
const (
	MaxDeleteKeys    = 1_000
	MaxCompleteParts = 10_000

	maxListBodyBytes  = 8 << 20  // DeleteObjects, CompleteMultipartUpload
	maxSmallBodyBytes = 64 << 10 // every other body
	maxDepth          = 16       // nested elements
	maxTextBytes      = 8 << 10  // text of one element
)

// document reads one XML document of known elements. It compares local names
// only: clients send S3's name space, other ones or none.
type document struct {
	dec  *xml.Decoder
	body *bounded
}

// bounded stops after n bytes with MaxMessageLengthExceeded. It keeps the error
// that ended the body, so that it is not taken for one of the document.
type bounded struct {
	r     io.Reader
	n     int64
	begun bool // a byte was read
	err   error
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.n <= 0 {
		p = p[:min(len(p), 1)] // one byte more shows whether the body ends here
	} else if int64(len(p)) > b.n {
		p = p[:b.n]
	}
	n, err := b.r.Read(p)
	if b.n <= 0 && n > 0 {
		n, err = 0, MaxMessageLengthExceeded
	}
	b.n -= int64(n)
	b.begun = b.begun || n > 0
	b.err = err
	return n, err
}

func newDocument(r io.Reader, limit int64) *document {
	body := &bounded{r: r, n: limit}
	dec := xml.NewDecoder(body)
	dec.Strict = true
	return &document{dec: dec, body: body}
}

// errEmpty says that there is no body at all.
var errEmpty = errors.New("wire: empty body")

// read parses the whole body: element root, whose children are given to child
// as those of [document.children] are. It reads to the end of the body, so that
// a reader that verifies it has its say. Errors are *[Error] or those of the
// reader.
func (d *document) read(root string, child func(name string) error) error {
	err := d.parse(root, child)
	switch {
	case err == nil:
		return nil
	case err == errEmpty && d.body.begun:
		return MalformedXML
	case err == errEmpty:
		return err
	}
	if d.body.err != nil && d.body.err != io.EOF {
		return d.body.err
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return MalformedXML.Because(err)
}

func (d *document) parse(root string, child func(name string) error) error {
	seen := false
	for {
		t, err := d.token()
		switch {
		case err == io.EOF && seen:
			return nil
		case err == io.EOF:
			return errEmpty
		case err != nil:
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if seen || t.Name.Local != root {
				return MalformedXML
			}
			seen = true
			if err := d.children(child); err != nil {
				return err
			}
		case xml.CharData:
			if strings.TrimSpace(string(t)) != "" {
				return MalformedXML
			}
		}
	}
}

// token returns the next token of interest. Document types are refused: they
// are the only way to declare entities, and no client sends any.
func (d *document) token() (xml.Token, error) {
	for {
		t, err := d.dec.Token()
		if err != nil {
			return nil, err
		}
		switch t.(type) {
		case xml.Directive:
			return nil, MalformedXML
		case xml.ProcInst, xml.Comment:
			continue
		}
		return t, nil
	}
}

// children calls child for each element inside the one just opened. child has
// to consume the element: by text, children or skip.
func (d *document) children(child func(name string) error) error {
	for {
		t, err := d.token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			if err := child(t.Name.Local); err != nil {
				return err
			}
		case xml.CharData:
			if strings.TrimSpace(string(t)) != "" {
				return MalformedXML
			}
		}
	}
}

// text returns the text of the element just opened, which must hold no other.
func (d *document) text() (string, error) {
	var b []byte
	for {
		t, err := d.token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.EndElement:
			return string(b), nil
		case xml.CharData:
			if len(b)+len(t) > maxTextBytes {
				return "", MalformedXML
			}
			b = append(b, t...)
		default:
			return "", MalformedXML
		}
	}
}

// word is text without surrounding white space.
func (d *document) word() (string, error) {
	s, err := d.text()
	return strings.TrimSpace(s), err
}

// skip consumes the element just opened and all in it.
func (d *document) skip() error {
	for depth := 1; depth > 0; {
		t, err := d.token()
		if err != nil {
			return err
		}
		switch t.(type) {
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return MalformedXML
			}
		case xml.EndElement:
			depth--
		}
	}
	return nil
}

// ReadCreateBucket reads the body of CreateBucket and returns the location
// constraint, "" if there is none or no body. directory reports that the body
// asks for a directory bucket, tags that it carries tags.
func ReadCreateBucket(r io.Reader) (location string, directory, tags bool, err error) {
	d := newDocument(r, maxSmallBodyBytes)
	err = d.read("CreateBucketConfiguration", func(name string) error {
		var err error
		switch name {
		case "LocationConstraint":
			location, err = d.word()
		case "Location", "Bucket":
			directory, err = true, d.skip()
		case "Tags":
			err = d.children(func(string) error {
				tags = true
				return d.skip()
			})
		default:
			err = d.skip()
		}
		return err
	})
	if errors.Is(err, errEmpty) {
		err = nil
	}
	return location, directory, tags, err
}

// Delete is the body of DeleteObjects.
type Delete struct {
	Quiet   bool
	Objects []DeleteObject
}

// DeleteObject names one key to delete and its conditions.
type DeleteObject struct {
	Key          string
	VersionID    string    // "" if none was named
	ETag         string    // without quotes, or "*"; "" for no condition
	LastModified time.Time // zero for no condition
	Size         int64     // -1 for no condition
}

// ReadDelete reads the body of DeleteObjects: 1 to [MaxDeleteKeys] objects.
func ReadDelete(r io.Reader) (*Delete, error) {
	var body Delete
	d := newDocument(r, maxListBodyBytes)
	err := d.read("Delete", func(name string) error {
		switch name {
		case "Quiet":
			s, err := d.word()
			body.Quiet = strings.EqualFold(s, "true")
			return err
		case "Object":
			if len(body.Objects) == MaxDeleteKeys {
				return MalformedXML
			}
			o, err := d.deleteObject()
			body.Objects = append(body.Objects, o)
			return err
		}
		return d.skip()
	})
	switch {
	case errors.Is(err, errEmpty):
		return nil, MissingRequestBody
	case err != nil:
		return nil, err
	case len(body.Objects) == 0:
		return nil, MalformedXML
	}
	return &body, nil
}

func (d *document) deleteObject() (DeleteObject, error) {
	o := DeleteObject{Size: -1}
	err := d.children(func(name string) error {
		var s string
		var err error
		switch name {
		case "Key":
			o.Key, err = d.text() // white space belongs to a key
		case "VersionId":
			o.VersionID, err = d.word()
		case "ETag":
			s, err = d.word()
			o.ETag = TrimETag(s)
		case "LastModifiedTime":
			if s, err = d.word(); err == nil && s != "" {
				var ok bool
				if o.LastModified, ok = ParseTime(s); !ok {
					return MalformedXML
				}
			}
		case "Size":
			if s, err = d.word(); err == nil && s != "" {
				if o.Size, err = strconv.ParseInt(s, 10, 64); err != nil || o.Size < 0 {
					return MalformedXML
				}
			}
		default:
			err = d.skip()
		}
		return err
	})
	if err == nil && o.Key == "" {
		err = MalformedXML
	}
	return o, err
}

// CompletedPart is one part of the body of CompleteMultipartUpload.
type CompletedPart struct {
	Number    int
	ETag      string  // without quotes
	Checksums []Field // element names without the word Checksum, such as CRC32
}

// ReadComplete reads the body of CompleteMultipartUpload: 1 to
// [MaxCompleteParts] parts in ascending order of their numbers.
func ReadComplete(r io.Reader) ([]CompletedPart, error) {
	var parts []CompletedPart
	var bad error // the first fault in the list, told when the body was read
	d := newDocument(r, maxListBodyBytes)
	err := d.read("CompleteMultipartUpload", func(name string) error {
		if name != "Part" {
			return d.skip()
		}
		if len(parts) == MaxCompleteParts {
			return MalformedXML
		}
		p, err := d.completedPart()
		if err != nil {
			return err
		}
		switch {
		case bad != nil:
		case p.Number < 1 || p.Number > MaxCompleteParts:
			bad = InvalidPartNumberArgument(strconv.Itoa(p.Number))
		case len(parts) > 0 && parts[len(parts)-1].Number >= p.Number:
			bad = InvalidPartOrder
		}
		parts = append(parts, p)
		return nil
	})
	switch {
	case errors.Is(err, errEmpty):
		return nil, MalformedXML
	case err != nil:
		return nil, err
	case len(parts) == 0:
		return nil, MalformedXML
	case bad != nil:
		return nil, bad
	}
	return parts, nil
}

// InvalidPartNumberArgument is the refusal of a part number outside 1 to
// 10,000.
func InvalidPartNumberArgument(value string) *Error {
	return InvalidArgument.Say("Part number must be an integer between 1 and 10000, inclusive").
		With("ArgumentName", "partNumber").With("ArgumentValue", value)
}

func (d *document) completedPart() (CompletedPart, error) {
	var p CompletedPart
	numbered := false
	err := d.children(func(name string) error {
		s, err := "", error(nil)
		algorithm, isChecksum := strings.CutPrefix(name, "Checksum")
		switch {
		case name == "PartNumber":
			if s, err = d.word(); err != nil {
				return err
			}
			if p.Number, err = strconv.Atoi(s); err != nil {
				return MalformedXML
			}
			numbered = true
		case name == "ETag":
			s, err = d.word()
			p.ETag = TrimETag(s)
		case isChecksum:
			s, err = d.word()
			if len(p.Checksums) == 8 {
				return MalformedXML
			}
			if s != "" {
				p.Checksums = append(p.Checksums, Field{algorithm, s})
			}
		default:
			err = d.skip()
		}
		return err
	})
	if err == nil && (!numbered || p.ETag == "") {
		err = MalformedXML
	}
	return p, err
}

// Grant is one grant of an access control list.
type Grant struct {
	GranteeID  string // canonical user; "" for other grantees
	Permission string
}

// ReadACL reads the body of PutBucketAcl and PutObjectAcl. It reports false
// for no body.
func ReadACL(r io.Reader) (owner string, grants []Grant, ok bool, err error) {
	d := newDocument(r, maxSmallBodyBytes)
	err = d.read("AccessControlPolicy", func(name string) error {
		switch name {
		case "Owner":
			return d.children(func(name string) error {
				if name != "ID" {
					return d.skip()
				}
				s, err := d.word()
				owner = s
				return err
			})
		case "AccessControlList":
			return d.children(func(name string) error {
				if name != "Grant" || len(grants) == 100 {
					return MalformedACL
				}
				g, err := d.grant()
				grants = append(grants, g)
				return err
			})
		}
		return d.skip()
	})
	if errors.Is(err, errEmpty) {
		return "", nil, false, nil
	}
	if errors.Is(err, MalformedXML) {
		err = MalformedACL.Because(err)
	}
	return owner, grants, true, err
}

func (d *document) grant() (Grant, error) {
	var g Grant
	err := d.children(func(name string) error {
		var err error
		switch name {
		case "Grantee":
			err = d.children(func(name string) error {
				if name != "ID" {
					return d.skip()
				}
				s, err := d.word()
				g.GranteeID = s
				return err
			})
		case "Permission":
			g.Permission, err = d.word()
		default:
			err = d.skip()
		}
		return err
	})
	return g, err
}
