package wire

import (
	"net/http"
	"slices"
	"strconv"
)

// Error is a refusal as S3 words it. The values of the table below are shared:
// [Error.With], [Error.Say] and [Error.Because] return changed copies.
type Error struct {
	Code    string  // S3's error code, such as "NoSuchKey"; stable
	Status  int     // HTTP status
	Message string  // S3's message, a sentence
	Fields  []Field // further elements of the <Error> body, in order
	cause   error
}

// Field is one further element of an error's XML body.
type Field struct {
	Name  string // element name
	Value string // text, not yet escaped
}

// Error returns the code, the message and the cause if there is one.
func (e *Error) Error() string {
	s := "s3: " + e.Code + ": " + e.Message
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns what caused the refusal, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With returns a copy of e with one more element in its body.
func (e *Error) With(name, value string) *Error {
	c := *e
	c.Fields = append(slices.Clip(e.Fields), Field{name, value})
	return &c
}

// Say returns a copy of e with another message.
func (e *Error) Say(message string) *Error {
	c := *e
	c.Message = message
	return &c
}

// Because returns a copy of e that wraps cause. The cause is for logs: clients
// never see it.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// WriteTo answers with e: status, content type, length and XML body. head
// leaves the body out, as replies to HEAD must. Other headers are the caller's.
func (e *Error) WriteTo(w http.ResponseWriter, head bool, resource, requestID, hostID string) error {
	if head {
		w.Header().Del("Content-Length")
		w.WriteHeader(e.Status)
		return nil
	}
	body := e.AppendXML(nil, resource, requestID, hostID)
	w.Header().Set("Content-Type", ContentTypeXML)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	_, err := w.Write(body)
	return err
}

// AppendXML appends the <Error> document to b. It is always well-formed: of what
// a client sent, characters that XML cannot carry become U+FFFD.
func (e *Error) AppendXML(b []byte, resource, requestID, hostID string) []byte {
	b = append(b, xmlHeader...)
	b = append(b, "<Error>"...)
	b = appendElement(b, "Code", e.Code)
	b = appendElement(b, "Message", legalText(e.Message))
	for _, f := range e.Fields {
		b = appendElement(b, f.Name, legalText(f.Value))
	}
	b = appendElement(b, "Resource", legalText(resource))
	b = appendElement(b, "RequestId", requestID)
	b = appendElement(b, "HostId", hostID)
	return append(b, "</Error>"...)
}

// NewError returns an error that is not in the table, such as one that comes
// from verifying a signature.
func NewError(status int, code, message string) *Error {
	return &Error{Code: code, Status: status, Message: message}
}

func define(status int, code, message string) *Error { return NewError(status, code, message) }

// The errors of S3 that we use, with AWS's codes, statuses and messages (Amazon
// S3 API Reference, "Error responses"). Never change one in place.
var (
	AccessControlListNotSupported   = define(400, "AccessControlListNotSupported", "The bucket does not allow ACLs")
	AccessDenied                    = define(403, "AccessDenied", "Access Denied")
	AccessForbidden                 = define(403, "AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.")
	BadDigest                       = define(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
	BadRequest                      = define(400, "BadRequest", "Bad Request")
	BucketAlreadyOwnedByYou         = define(409, "BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded and you already own it.")
	BucketNotEmpty                  = define(409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
	ConditionalRequestConflict      = define(409, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation against this resource.")
	EntityTooLarge                  = define(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
	EntityTooSmall                  = define(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
	IncompleteBody                  = define(400, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header")
	InsufficientCapacity            = define(507, "InsufficientCapacity", "There is not enough space to store the object. Delete objects or add drives.")
	InternalError                   = define(500, "InternalError", "We encountered an internal error. Please try again.")
	InvalidAccessKeyID              = define(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
	InvalidArgument                 = define(400, "InvalidArgument", "Invalid Argument")
	InvalidBucketName               = define(400, "InvalidBucketName", "The specified bucket is not valid.")
	InvalidDigest                   = define(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
	InvalidEncryptionAlgorithm      = define(400, "InvalidEncryptionAlgorithmError", "The encryption request you specified is not valid. The valid value is AES256.")
	InvalidLocationConstraint       = define(400, "InvalidLocationConstraint", "The specified location-constraint is not valid")
	InvalidPart                     = define(400, "InvalidPart", "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.")
	InvalidPartNumber               = define(416, "InvalidPartNumber", "The requested partnumber is not satisfiable")
	InvalidPartOrder                = define(400, "InvalidPartOrder", "The list of parts was not in ascending order. Parts must be ordered by part number.")
	InvalidRange                    = define(416, "InvalidRange", "The requested range is not satisfiable")
	InvalidRequest                  = define(400, "InvalidRequest", "Invalid Request")
	InvalidStorageClass             = define(400, "InvalidStorageClass", "The storage class you specified is not valid")
	InvalidURI                      = define(400, "InvalidURI", "Couldn't parse the specified URI.")
	KeyTooLong                      = define(400, "KeyTooLongError", "Your key is too long")
	MalformedACL                    = define(400, "MalformedACLError", "The XML you provided was not well-formed or did not validate against our published schema")
	MalformedXML                    = define(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema")
	MaxMessageLengthExceeded        = define(400, "MaxMessageLengthExceeded", "Your request was too big.")
	MetadataTooLarge                = define(400, "MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
	MethodNotAllowed                = define(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
	MissingContentLength            = define(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
	MissingRequestBody              = define(400, "MissingRequestBodyError", "Request Body is empty")
	NoSuchBucket                    = define(404, "NoSuchBucket", "The specified bucket does not exist")
	NoSuchBucketPolicy              = define(404, "NoSuchBucketPolicy", "The bucket policy does not exist")
	NoSuchConfiguration             = define(404, "NoSuchConfiguration", "The specified configuration does not exist.")
	NoSuchCORSConfiguration         = define(404, "NoSuchCORSConfiguration", "The CORS configuration does not exist")
	NoSuchKey                       = define(404, "NoSuchKey", "The specified key does not exist.")
	NoSuchLifecycleConfiguration    = define(404, "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")
	NoSuchPublicAccessBlock         = define(404, "NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found")
	NoSuchTagSet                    = define(404, "NoSuchTagSet", "The TagSet does not exist")
	NoSuchUpload                    = define(404, "NoSuchUpload", "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.")
	NoSuchVersion                   = define(404, "NoSuchVersion", "The specified version does not exist.")
	NoSuchWebsiteConfiguration      = define(404, "NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration")
	NotImplemented                  = define(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
	NotModified                     = define(304, "NotModified", "Not Modified")
	ObjectLockConfigurationNotFound = define(404, "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket")
	PreconditionFailed              = define(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
	ReplicationConfigNotFound       = define(404, "ReplicationConfigurationNotFoundError", "The replication configuration was not found")
	RequestTimeout                  = define(400, "RequestTimeout", "Your socket connection to the server was not read from or written to within the timeout period. Idle connections will be closed.")
	ServiceUnavailable              = define(503, "ServiceUnavailable", "Service is unable to handle request. Please retry later.")
	SlowDown                        = define(503, "SlowDown", "Please reduce your request rate.")
	SSEConfigurationNotFound        = define(404, "ServerSideEncryptionConfigurationNotFoundError", "The server side encryption configuration was not found")
	TooManyBuckets                  = define(400, "TooManyBuckets", "You have attempted to create more buckets than allowed")
)
