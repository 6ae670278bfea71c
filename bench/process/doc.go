// Package process runs a ruche server as a child process and reads what any
// process of this machine has used: CPU time and memory, from procfs.
//
// It knows the server by its command line, its endpoints.json and its health
// page alone, so that programs which treat the server as a black box can use
// it: package bench, and the tests below conformance that have to restart,
// kill or weigh a server.
package process
