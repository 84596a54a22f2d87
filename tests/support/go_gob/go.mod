module gogob

go 1.19
