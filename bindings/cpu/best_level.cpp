// Run by CMake: the suffix of the best module for this machine.
#include <cstdio>

#include "cpu/levels.hpp"

int main() { std::fputs(pyalexnet::levels().back().first.c_str(), stdout); }
