/* Says which sources a library was compiled from: build.py looks for this in the file. */

#ifndef SKIPVIT_SOURCES
#define SKIPVIT_SOURCES "unknown"
#endif

const char skipvit_sources[] = "skipvit sources " SKIPVIT_SOURCES;
