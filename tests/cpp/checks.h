// For the test programs of this folder: the first check that fails says where, and ends the program with status 1.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::_Exit(1);                                                               \
    }                                                                              \
  } while (false)

#define CHECK_THROWS(type, expression)                                                           \
  do {                                                                                           \
    bool check_threw = false;                                                                    \
    try {                                                                                        \
      expression;                                                                                \
    } catch (const type &) {                                                                     \
      check_threw = true;                                                                        \
    }                                                                                            \
    if (!check_threw) {                                                                          \
      std::fprintf(stderr, "%s:%d: throws no %s: %s\n", __FILE__, __LINE__, #type, #expression); \
      std::_Exit(1);                                                                             \
    }                                                                                            \
  } while (false)

#if defined(__SANITIZE_THREAD__)
constexpr bool THREAD_SANITIZER = true;
#else
constexpr bool THREAD_SANITIZER = false;
#endif

// Whoever waits for ever is ended by SIGALRM.
inline void limit_time() { alarm(300); }
