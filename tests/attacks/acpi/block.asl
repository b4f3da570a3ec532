// A definition block of the host: it writes its mark to the port 0x402, and to the guest's memory
// at 256 MiB, and writes to the port what it then reads there. SIGNATURE and NAME are filled in.
DefinitionBlock ("", "SIGNATURE", 2, "OWNER", "OWNERTBL", 1)
{
    OperationRegion (PORT, SystemIO, 0x402, 1)
    Field (PORT, ByteAcc, NoLock, Preserve) { BYTE, 8 }
    OperationRegion (MEMO, SystemMemory, 0x10000000, 8)
    Field (MEMO, QWordAcc, NoLock, Preserve) { WORD, 64 }
    Device (\_SB.NAME)
    {
        Name (_HID, "ACPI0004")
        Method (_STA, 0, NotSerialized) { BYTE = 0x53 Return (0x0F) }
        Method (_INI, 0, NotSerialized)
        {
            WORD = 0x454552463a524f46
            Local0 = WORD
            For (Local1 = 0, Local1 < 8, Local1++) { BYTE = Local0 Local0 >>= 8 }
        }
    }
}
