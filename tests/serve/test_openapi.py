"""The description agrees with the server: schemathesis finds no undocumented status, type or body, and no 500."""



