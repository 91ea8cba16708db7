package netns

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Offsets in the IPv4 header (RFC 791) and in TCP's and UDP's.
const (
	checksumOffset    = 10
	sourceOffset      = 12
	destinationOffset = 16
	dstPortOffset     = 2
)

// from matches packets from a sandbox and leaves its unique address in register 2.
func (t *table) from() []expr.Any { return t.mapped(expr.MetaKeyIIFNAME) }

// to matches packets to a sandbox.
func (t *table) to() []expr.Any { return t.mapped(expr.MetaKeyOIFNAME) }

func (t *table) mapped(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 2, IsDestRegSet: true, SetName: t.addresses.Name, SetID: t.addresses.ID},
	}
}

func source() []expr.Any      { return load(expr.PayloadBaseNetworkHeader, sourceOffset, 4) }
func destination() []expr.Any { return load(expr.PayloadBaseNetworkHeader, destinationOffset, 4) }

func load(base expr.PayloadBase, offset, size uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: size}}
}

// write puts a register over an address and mends the checksums, also the one
// of the protocol above, which covers the addresses.
func write(offset, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: register,
		Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4,
		CsumType: expr.CsumTypeInet, CsumOffset: checksumOffset, CsumFlags: 1, // NFT_PAYLOAD_L4CSUM_PSEUDOHDR
	}}
}

func cmp(op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: op, Register: 1, Data: data}}
}

func protocol(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}}}
}

func port16(port uint16) []expr.Any {
	return append(load(expr.PayloadBaseTransportHeader, dstPortOffset, 2), cmp(expr.CmpOpEq, binaryutil.BigEndian.PutUint16(port))...)
}

// notAnswer matches packets that belong to no connection made from inside.
func notAnswer() []expr.Any {
	answers := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: answers, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
