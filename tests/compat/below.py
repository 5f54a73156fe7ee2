"""Appends a transaction to a FileStorage whose tid is just above a given one, whatever the clock says.

  below.py FILE OID TID
"""

import sys

import ZODB.BaseStorage
import ZODB.utils
from persistent.TimeStamp import TimeStamp
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

path, oid, tid = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])


class Clock:
    def time(self):
        return TimeStamp(tid).timeTime()

    def __getattr__(self, name):
        return getattr(__import__("time"), name)


ZODB.BaseStorage.time = ZODB.utils.time = Clock()
st = FileStorage(path)
data, serial = st.load(oid, "")
t = TransactionMetaData()
st.tpc_begin(t)
st.store(oid, serial, data, "", t)
st.tpc_vote(t)
print(st.tpc_finish(t).hex())
st.close()
